"""The Python functions of `import attrbench` (`run`, `tune`, `attribute`, ...), which do what the commands do.

Names are resolved and options validated before anything heavy is imported, so that a wrong name is refused at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrbench.attribution import attribute, attribute_blocks
from attrbench.contracts.record import Record
from attrbench.contracts.record_files import kept_records
from attrbench.contracts.task import OpenTask, Workspace
from attrbench.errors import UsageError
from attrbench.evaluation.config import reporter, run_settings
from attrbench.evaluation.folders import cache_folders, chosen_device, record_places
from attrbench.evaluation.progress import Reporter
from attrbench.evaluation.requests import (
    MethodLike,
    TaskLike,
    methods_and_tasks,
    models_of,
    request_executor,
    request_methods,
    request_sweeps,
    request_tasks,
    several,
)
from attrbench.plugins import registry as plugins
from attrbench.store.read_only import read_also

if TYPE_CHECKING:
    from attrbench.conformance.check_report import Finding, Report
    from attrbench.evaluation.task_run import Result
    from attrbench.evaluation.tune import Choice
    from attrbench.reports.leaderboard import Leaderboard
    from attrbench.results import Results, TunedResults

logger = logging.getLogger("attrbench")

__all__ = [
    "attribute",
    "attribute_blocks",
    "check",
    "leaderboard",
    "open_task",
    "read_records",
    "run",
    "tune",
]


def run(
    methods: MethodLike | Sequence[MethodLike],
    tasks: TaskLike | Sequence[TaskLike],
    *,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    read_cache: Sequence[str | Path] | None = None,
    device: str | None = "cpu",
    seed: int = 0,
    limit_train: int | None = None,
    limit_queries: int | None = None,
    executor: str = "inline",
    ground_truths: Sequence[str] = (),
    rerun: bool = False,
    progress: bool | Reporter = True,
    batch_size: int | None = None,
    backend: str = "hooks",
    dry_run: bool = False,
    keep_scores: bool = True,
    on_result: Callable[[Result], None] | None = None,
) -> Results:
    """Run attribution methods on tasks; return the records, rankings and scores of every method on every task.

    What an earlier run has computed is not computed again, whether that was here or on the command line. A method that
    raises leaves a record with status `failed`; the others go on.

    Args:
        methods: one or several: names with options (`dmin:v=4096`; `a|b` sweeps, `all` is every method,
            `all:without=a|b` all but some), classes, instances. A class need not be registered, and may be
            defined in a notebook.
        tasks: one or several: names with options, paths of task files, classes, instances.
        out: folder of the records; by default that of ATTRBENCH_OUT, else `attrbench-results`.
        cache: folder of everything that can be computed again; by default that of ATTRBENCH_CACHE, else the
            user's cache folder.
        read_cache: caches of others, where what the cache lacks is looked for and nothing is written; by default those
            of ATTRBENCH_READ_CACHE. A `cache` that you can't write to is one of them by itself.
        device: torch device; None for CUDA where there is one.
        seed: of intervals, and of methods that draw.
        limit_train: use only the first so many training items; such a run is never ranked.
        limit_queries: use only the first so many queries, likewise.
        executor: where jobs run, with options: `inline`, `processes:2`; see `attrbench list executors`.
        ground_truths: those to measure beside the ones that are measured by default, with options: `lds:bank=FILE`.
        rerun: score again what a record already answers.
        progress: whether stages are shown on standard error; or a reporter that shows them.
        batch_size: noisy samples in a backward pass; None finds it.
        backend: how per-sample gradients are computed: `hooks`, `vmap` or `loop`.
        dry_run: return what has records already, show the plan of the rest, and stop.
        keep_scores: keep the [m, n] scores of each method in memory.
        on_result: called with each result as soon as it is there.

    Raises:
        UsageError: for an unknown name or a wrong option.
        AttrbenchError: for a folder that can't be written to, a device that is not there, and the like.
    """
    registry = plugins.registry()
    method_requests = request_methods(registry, several(methods))
    task_requests = request_tasks(registry, several(tasks))
    request_executor(registry, executor)
    from attrbench.results import Results  # torch comes with it, and wrong names are refused before

    settings = run_settings(
        out,
        cache,
        device,
        batch_size,
        backend,
        read_cache,
        seed=seed,
        limit_train=limit_train,
        limit_queries=limit_queries,
        executor=executor,
        ground_truths=tuple(ground_truths),
        rerun=rerun,
        dry_run=dry_run,
        keep_scores=keep_scores,
    )
    return Results.compute(registry, method_requests, task_requests, settings, reporter(progress, settings), on_result)


def tune(  # noqa: D417
    methods: MethodLike | Sequence[MethodLike | Sequence[MethodLike]],
    tasks: TaskLike | Sequence[TaskLike],
    *,
    by: str | None = None,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    read_cache: Sequence[str | Path] | None = None,
    device: str | None = "cpu",
    seed: int = 0,
    limit_train: int | None = None,
    limit_queries: int | None = None,
    executor: str = "inline",
    ground_truths: Sequence[str] = (),
    rerun: bool = False,
    progress: bool | Reporter = True,
    batch_size: int | None = None,
    backend: str = "hooks",
    keep_scores: bool = True,
    on_choice: Callable[[Choice], None] | None = None,
    on_result: Callable[[Result], None] | None = None,
) -> TunedResults:
    """Choose methods' options by a metric on each task's tuning queries, then run the best on the reported queries.

    Args:
        methods: each a choice of its own: a name with several values (`d-trak:damping=0.01|0.1`), or a list of names,
            classes or instances.
        tasks: as for `run`; each must have tuning queries.
        by: the metric that decides, such as `average-precision`; by default `lds` where models were retrained for the
            tuning queries, and else the task's main metric.
        ground_truths: as for `run`, measured of what was chosen, on the reported queries.
        on_choice: called with each choice as soon as it is made.
        on_result: called with each result as soon as it is there.

    The other arguments are those of `run`.

    Returns:
        The results of what was chosen, with `choices`. A choice of which no value has a result has `chosen` None.

    Raises:
        UsageError: as `run`; for a method without values to choose from, a task without tuning queries, or a metric
            that no run has.
        AttrbenchError: as `run`.
    """
    registry = plugins.registry()
    sweeps, task_requests = request_sweeps(registry, several(methods)), request_tasks(registry, several(tasks))
    request_executor(registry, executor)
    from attrbench.results import TunedResults  # torch comes with it, as in `run`

    settings = run_settings(
        out,
        cache,
        device,
        batch_size,
        backend,
        read_cache,
        seed=seed,
        limit_train=limit_train,
        limit_queries=limit_queries,
        executor=executor,
        ground_truths=tuple(ground_truths),
        rerun=rerun,
        keep_scores=keep_scores,
    )
    shown = reporter(progress, settings)
    return TunedResults.choose(registry, sweeps, task_requests, settings, shown, by, on_choice, on_result)


def open_task(task: TaskLike, *, cache: str | Path | None = None, device: str | None = "cpu") -> OpenTask:
    """Return a loaded task with its training set, queries and denoiser, each of them loaded on first use.

    Args:
        task: a single task, as for `run`.
        cache: folder for what the task keeps, such as generated queries; as for `run`.
        device: torch device of the model; None for CUDA where there is one.

    Raises:
        UsageError: for an unknown name or a wrong option.
        AttrbenchError: where something that the task needs is not there.
    """
    requests = request_tasks(plugins.registry(), [task])
    if len(requests) != 1:
        raise UsageError("open_task takes one task: no a|b")
    from attrbench.evaluation.devices import torch_device  # torch comes with it, as in `run`

    caches = cache_folders(cache, None)
    read_also(*caches)
    return requests[0].task.open(Workspace(caches.written, torch_device(chosen_device(device))))


def read_records(*places: str | Path, rankings: bool = True) -> list[Record]:
    """Return all records of runs in files or below folders, by default `run`'s; unreadable ones are logged and skipped.

    Args:
        places: files and folders.
        rankings: whether to read the rankings, too, which are nine tenths of a record.

    Raises:
        AttrbenchError: for a file or folder that is not there, or a file that is no record.
    """
    return [kept.record for kept in kept_records(record_places(places), warn, rankings)]


def leaderboard(
    records: str | Path | Results | Iterable[Record | str | Path] = (),
    *,
    tasks: str | Sequence[str] = (),
    metric: str | None = None,
    methods: str | Sequence[str] = (),
    hardware: str | Sequence[str] = (),
    rankings: bool = True,
) -> Leaderboard:
    """Rank the methods by their records in one table for each task, for display in a notebook.

    Args:
        records: what `run` returned, records, or folders and files of records; by default the folder of `run`.
        tasks: names of the tasks that are wanted; by default all.
        metric: what ranks, such as `average-precision`; by default each task's main metric.
        methods: those to show, with or without options; ranks are among all.
        hardware: parts of the names of the classes of hardware to show.
        rankings: whether to read the rankings of records in files, too; the board itself has no use for them.

    Raises:
        UsageError: for a task, metric, method or class of hardware that no record has.
        AttrbenchError: for a folder that is not there, or where there are no records.
    """
    from attrbench.reports.leaderboard import rank_records  # SciPy comes with it, which the other functions need not

    given = records.records if hasattr(records, "records") else several(records)
    kept = [record for record in given if isinstance(record, Record)]
    folders = [folder for folder in given if not isinstance(folder, Record)]
    if folders or not given:
        kept += read_records(*folders, rankings=rankings)
    return rank_records(kept, several(tasks), metric, several(methods), several(hardware))


def check(
    subjects: MethodLike | TaskLike | Sequence[MethodLike | TaskLike] = (),
    *,
    methods: MethodLike | Sequence[MethodLike] = (),
    tasks: TaskLike | Sequence[TaskLike] = (),
    device: str | None = "cpu",
    cache: str | Path | None = None,
    retrain: bool = False,
    on_start: Callable[[str], None] | None = None,
    on_finding: Callable[[Finding], None] | None = None,
    on_report: Callable[[Report], None] | None = None,
) -> list[Report]:
    """Check that methods and tasks keep to the contract; return one report of conformance checks for each.

    A method is tried on a tiny task, a task with a few of its items, and each model of a task of several by itself.

    Args:
        subjects: methods and tasks, as for `run`; of a name the registry says which it is.
        methods: methods, where a task has the same name.
        tasks: tasks, likewise.
        device: torch device; None for CUDA where there is one.
        cache: folder for what tasks keep, such as generated queries; as for `run`.
        retrain: train each trainable task four times, which takes as long as it takes.
        on_start: called with each method or task, with the options that it is checked with, before it is checked.
        on_finding: called with each finding as it is made.
        on_report: called with each report.

    Raises:
        UsageError: for an unknown name or a wrong option, or a name that a method and a task have.
        AttrbenchError: for a device that is not there.
    """
    registry = plugins.registry()
    named_methods, named_tasks = methods_and_tasks(registry, several(subjects))
    method_requests = request_methods(registry, [*named_methods, *several(methods)])
    task_requests = request_tasks(registry, [*named_tasks, *several(tasks)])
    from attrbench.conformance.method_check import check_method, with_quick_options  # torch comes with it, as in `run`
    from attrbench.conformance.task_check import check_task  # as above

    place, tell = chosen_device(device), on_finding or _ignore
    reports: list[Report] = []

    def done(report: Report) -> None:
        reports.append(report)
        if on_report is not None:
            on_report(report)

    for request in method_requests:
        (on_start or _ignore)(with_quick_options(request).label)
        done(check_method(registry, request, place, tell))
    if task_requests:
        caches = cache_folders(cache, None)
        read_also(*caches)
    for task in (model for named in task_requests for model in models_of(registry, named) or [named]):
        (on_start or _ignore)(task.label)
        done(check_task(registry, task, caches.written, place, retrain, tell))
    return reports


def _ignore(told: object) -> None:
    """Do nothing: the default callback of `check` for a caller that wants to hear nothing while the checks run."""


def warn(line: str) -> None:
    """Log one line as a warning, such as on a file that is left out."""
    logger.warning("%s", line)
