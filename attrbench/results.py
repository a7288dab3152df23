"""The results that `attrbench.run` and `tune` return: records, rankings, scores, pictures and a leaderboard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.ranking import Ranking
from attrbench.contracts.record import Record
from attrbench.contracts.task import OpenTask, Task, Workspace
from attrbench.errors import AttrbenchError, UsageError, unknown_name
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.devices import torch_device
from attrbench.evaluation.meaningless import lost_line
from attrbench.evaluation.pooled_run import run_on
from attrbench.evaluation.requests import MethodLike, MethodRequest, Sweep, TaskLike, TaskRequest, method_label
from attrbench.evaluation.task_run import Result
from attrbench.evaluation.tune import Choice, TuningRun
from attrbench.reports.contact_sheet import ContactSheet, Heading, Strip
from attrbench.reports.html_table import to_html
from attrbench.reports.leaderboard import Leaderboard, data_frame, rank_records

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from attrbench.evaluation.progress import Reporter
    from attrbench.plugins.registry import Registry


T = TypeVar("T")
Tell: TypeAlias = Callable[[T], None] | None


def telling(values: Iterable[T], tell: Tell[T]) -> list[T]:
    """Return the values of an iterable as a list, calling `tell` with each value as soon as it is computed."""
    seen = []
    for value in values:
        seen.append(value)
        if tell is not None:
            tell(value)
    return seen


class Results(Sequence[Result]):
    """The results of `attrbench.run`, one for each method on each task, which a notebook shows as a leaderboard.

    A method is named by its `-m` string or its name, or given as the class or the instance that ran; the task needs to
    be named only where there are several.

    Args:
        results: what the runs gave.
        tasks: the tasks that ran.
        settings: how they ran.
    """

    def __init__(self, results: Sequence[Result], tasks: Sequence[TaskRequest], settings: RunSettings) -> None:
        self._results = list(results)
        self._tasks = {request.label: request for request in tasks}
        self._settings = settings
        self._opened: dict[str, OpenTask] = {}

    @classmethod
    def compute(
        cls,
        registry: Registry,
        methods: Sequence[MethodRequest],
        tasks: Sequence[TaskRequest],
        settings: RunSettings,
        reporter: Reporter,
        tell: Tell[Result] = None,
    ) -> Results:
        """Run methods on tasks and return the results; `tell` is called with each result as soon as it is known."""
        results: list[Result] = []
        for task in tasks:
            results += telling(run_on(registry, task, methods, settings, reporter).results(), tell)
        return cls(results, tasks, settings)

    @property
    def records(self) -> list[Record]:
        """Return the records of all runs (one for each method on each task), in the order of the runs."""
        return [result.record for result in self._results]

    @property
    def paths(self) -> list[Path]:
        """Return the paths of the JSON files of the records, in the order of the runs."""
        return [result.path for result in self._results]

    def record(self, method: MethodLike, task: TaskLike | None = None) -> Record:
        """Return the record (metrics, storage, latency) of one method's run on a task.

        Raises:
            UsageError: for a method or task that is not among the results, or where several are meant.
        """
        return self._result(method, task).record

    def rankings(self, method: MethodLike, task: TaskLike | None = None) -> NDArray[np.int64]:
        """Return a run's ranking as [m, k] training ids, strongest first for each query; -1 where fewer were found.

        Raises:
            UsageError: as `record`.
            AttrbenchError: where the run failed.
        """
        record = self._result(method, task).record
        if not record.ranking:
            raise AttrbenchError(f"{record.method.label} has no rankings: {record.error or record.status}")
        return np.array(record.ranking, np.int64)

    def scores(self, method: MethodLike, task: TaskLike | None = None) -> NDArray[np.float32]:
        """Return [m, n] scores of all training items for each query; larger means more influential.

        Scores are in no record: only a run that was just computed has them.

        Raises:
            UsageError: as `record`.
            AttrbenchError: where there are none, with the reason.
        """
        result = self._result(method, task)
        if result.scores is not None:
            return result.scores
        label, error = result.record.method.label, result.record.error
        if error is not None:
            raise AttrbenchError(f"{label} has no scores: {error}")
        if result.reused:
            raise AttrbenchError(f"the record of {label} was there before, and scores are not kept: use rerun=True")
        raise AttrbenchError(f"{label} searches an index, and has no scores of all items")

    def pictures(
        self, query: int | Sequence[int], method: MethodLike, k: int = 10, task: TaskLike | None = None
    ) -> Image.Image:
        """Draw queries, each beside its k top-ranked training images, and return the image for display in a notebook.

        Args:
            query: index of a query, or several.
            method: whose ranking.
            k: how many training images.
            task: where several ran.

        Raises:
            UsageError: as `record`, and for a query that there is not.
            AttrbenchError: as `rankings`.
        """
        result = self._result(method, task)
        ids = self.rankings(method, task)
        chosen = [query] if isinstance(query, int) else list(query)
        for index in chosen:
            if not 0 <= index < len(ids):
                raise UsageError(f"there is no query {index}: there are {len(ids)}, the first is 0")
        scores = np.full(ids.shape, np.nan, np.float32)
        if result.scores is not None:
            scores = np.take_along_axis(result.scores, np.maximum(ids, 0), axis=1)
        opened = self._open(result.record.task.label)
        record = result.record
        lost = [lost_line(record.coverage.nonfinite)] if record.coverage.nonfinite else []
        heading = Heading(f"Method {record.method.label}, task {record.task.label}", record.method.summary, lost)
        ranking = Ranking(ids[:, :k], scores[:, :k])
        return ContactSheet(opened.queries, opened.train, [Strip(ranking)], heading, chosen, rows=None)[0]

    def leaderboard(self, metric: str | None = None) -> Leaderboard:
        """Return a leaderboard of the runs in these results alone, whatever other records their folder holds."""
        return rank_records(self.records, metric=metric)

    def to_pandas(self) -> pd.DataFrame:
        """Return a pandas data frame with one row for each run: task, method, options, metrics, bytes and seconds."""
        return data_frame([_row(result) for result in self._results])

    def _result(self, method: MethodLike, task: TaskLike | None) -> Result:
        """Return the one result of this method and task; ambiguous and unknown names raise a UsageError."""
        label, on = method_label(method), None if task is None else _task_name(task)
        known = [result for result in self._results if on is None or on in _names_of_task(result.record)]
        if not known:
            raise unknown_name(
                "task among the results", on or "", {result.record.task.label for result in self._results}
            )
        chosen = [result for result in known if result.record.method.label == label]
        chosen = chosen or [result for result in known if result.record.method.name == label]
        if not chosen:
            raise unknown_name("method among the results", label, {r.record.method.label for r in known})
        if len(chosen) > 1:
            meant = ", ".join(f"{r.record.method.label} on {r.record.task.label}" for r in chosen)
            raise UsageError(f"'{label}' may be any of these: {meant}")
        return chosen[0]

    def _open(self, label: str) -> OpenTask:
        if label not in self._opened:
            workspace = Workspace(self._settings.cache, torch_device(self._settings.device))
            self._opened[label] = self._tasks[label].task.open(workspace)
        return self._opened[label]

    @overload
    def __getitem__(self, index: int) -> Result: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Result]: ...

    def __getitem__(self, index: int | slice) -> Result | Sequence[Result]:
        """Return the result at an index: a record, its path, whether it was reused, and the scores."""
        return self._results[index]

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)

    def _repr_html_(self) -> str:
        return to_html(self.leaderboard().tables) if self._results else "<p>no results</p>"

    def __str__(self) -> str:
        return str(self.leaderboard()) if self.records else repr(self)

    def __repr__(self) -> str:
        counts = Counter(record.status for record in self.records)
        status = ", ".join(f"{count} {name}" for name, count in counts.items())
        return f"<Results of {', '.join(self._tasks)}: {status or 'none'}>"


class TunedResults(Results):
    """The results of `attrbench.tune`: runs of the chosen options on the reported queries, and the choices.

    Attributes:
        choices: for each task and method what every value reached on the tuning queries, and which was chosen.
    """

    def __init__(
        self,
        results: Sequence[Result],
        tasks: Sequence[TaskRequest],
        settings: RunSettings,
        choices: Sequence[Choice],
    ) -> None:
        super().__init__(results, tasks, settings)
        self.choices = list(choices)

    @classmethod
    def choose(
        cls,
        registry: Registry,
        sweeps: Sequence[Sweep],
        tasks: Sequence[TaskRequest],
        settings: RunSettings,
        reporter: Reporter,
        by: str | None,
        tell_choice: Tell[Choice] = None,
        tell: Tell[Result] = None,
    ) -> TunedResults:
        """Choose each method's options by the metric `by` on the tuning queries, and run them on reported queries."""
        runs = [TuningRun(registry, task, sweeps, settings, reporter, by) for task in tasks]
        choices: list[Choice] = []
        results: list[Result] = []
        for tuning_run in runs:
            made = telling(tuning_run.choices(), tell_choice)
            choices += made
            results += telling(tuning_run.results(made), tell)
        return cls(results, tasks, settings, choices)


def _task_name(task: Any) -> str:
    if isinstance(task, Task) or (isinstance(task, type) and issubclass(task, Task)):
        return task.meta.name
    return str(task)


def _names_of_task(record: Record) -> tuple[str, str]:
    return record.task.label, record.task.name


def _row(result: Result) -> dict[str, Any]:
    """Return one result as a dict of plain values (task, method, options, metrics, costs): a row of a data frame."""
    record = result.record
    storage, latency = record.storage, record.latency
    return {
        "task": record.task.label,
        "method": record.method.label,
        "name": record.method.name,
        **{f"option {name}": value for name, value in record.method.options.items()},
        "status": record.status,
        **{metric.name: metric.value for metric in record.metrics},
        "storage_bytes": None if storage is None else storage.total,
        "query_p50_seconds": None if latency is None else latency.query.p50,
        "amortized_seconds": None if latency is None else latency.cache + latency.fit,
        "error": record.error,
        "reused": result.reused,
        "path": str(result.path),
    }
