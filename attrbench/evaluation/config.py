"""Build the settings and the progress reporter of a run from user arguments and defaults."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrbench.contracts.computation import Engine
from attrbench.contracts.seeds import check_seed
from attrbench.errors import AttrbenchError
from attrbench.evaluation.folders import cache_folders, chosen_device, results_folder
from attrbench.evaluation.progress import Reporter, Silent, TerminalReporter
from attrbench.evaluation.run_status import units_at_work, units_line
from attrbench.store.read_only import read_also

if TYPE_CHECKING:
    from attrbench.evaluation.requests import MethodRequest, TaskRequest


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run: folders, device, limits, executor and seed.

    Attributes:
        out: folder of the records.
        cache: folder of everything that can be computed again.
        read_caches: caches of others, in which what `cache` lacks is looked for; nothing is written there.
        device: torch device string.
        seed: of the run: random scores and bootstrap.
        limit_train, limit_queries: use only the first so many items; such runs are never ranked.
        engine: how gradients are computed.
        executor: the executor, with options: `processes:4`.
        rerun: compute again what an existing record already answers.
        dry_run: give what has records, and stop after the plan of the rest.
        retrain: whether the task's ground truths are measured, some by training for each method.
        ground_truths: those named beside the ones that are measured by default, with options: `lds:bank=FILE`.
        keep_scores: keep the [m, n] scores of each method in memory, beside its record.
        seal_records: give records a seal, because `out` lies in the cache.
    """

    out: Path
    cache: Path
    device: str = "cpu"
    seed: int = 0
    limit_train: int | None = None
    limit_queries: int | None = None
    engine: Engine = field(default_factory=Engine)
    executor: str = "inline"
    rerun: bool = False
    dry_run: bool = False
    retrain: bool = True
    ground_truths: tuple[str, ...] = ()
    keep_scores: bool = False
    seal_records: bool = False
    read_caches: tuple[Path, ...] = ()

    def make_folders(self) -> None:
        """Create the output and cache folders of the run; check that records can be written.

        Raises:
            AttrbenchError: one line that names it.
        """
        make_folder(self.out, "--out", written=True)
        make_folder(self.cache, "--cache")

    def command(self, method: MethodRequest, task: TaskRequest) -> str:
        """Return the `attrbench` command line that repeats the run of one method on one task."""
        tuned = method.tuned
        verb, label = ("run", method.label) if tuned is None else ("tune", tuned.sweep)
        parts = ["attrbench", verb, "-m", label, "-t", task.label]
        for flag, value, default in (
            ("--by", None if tuned is None else tuned.by, None),
            ("--limit-train", self.limit_train, None),
            ("--limit-queries", self.limit_queries, None),
            ("--device", self.device, "cpu"),
            ("--seed", self.seed, 0),
        ):
            if value != default:
                parts += [flag, str(value)]
        parts += [part for text in self.ground_truths for part in ("--ground-truth", text)]
        return shlex.join(parts)


def run_settings(
    out: str | Path | None,
    cache: str | Path | None,
    device: str | None,
    batch_size: int | None,
    backend: str,
    read_cache: Sequence[str | Path] | None = None,
    queries_together: bool = False,
    **others: Any,
) -> RunSettings:
    """Return the settings of a run from user arguments; None stands for the default folder, device or batch size.

    This process then finds in the read-only caches what the cache lacks.

    Raises:
        UsageError: for a number that is no seed, or a read-only cache that is no folder.
    """
    check_seed(others.get("seed", 0), "--seed")
    caches = cache_folders(cache, out, read_cache)
    read_also(*caches)
    return RunSettings(
        out=results_folder(out),
        cache=caches.written,
        read_caches=caches.read,
        device=chosen_device(device),
        engine=Engine(backend, batch_size, queries_together),
        **others,
    )


def reporter(progress: bool | Reporter, settings: RunSettings) -> Reporter:
    """Return the given progress reporter; for True one that writes to standard error, for False a silent one."""
    if not isinstance(progress, bool):
        return progress
    return terminal_reporter(settings.executor, settings.cache) if progress else Silent()


def terminal_reporter(executor: str, cache: Path) -> TerminalReporter:
    """Return a reporter that writes to standard error, and tells on a terminal what several workers are at."""
    return TerminalReporter(None if executor == "inline" else lambda: units_line(units_at_work(cache)))


def make_folder(folder: Path, flag: str, written: bool = False) -> None:
    """Create a folder if it does not exist; with `written`, check that files can be written to it.

    Raises:
        AttrbenchError: where it can't, with the flag that names another.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if written:
            tempfile.TemporaryFile(dir=folder).close()  # a name of its own: others may start here as well
    except OSError as error:
        raise AttrbenchError(f"cannot write to {folder}: {error.strerror}; choose another folder with {flag}") from None
