"""The function `attrbench.report`, which makes a file that people look at of the records of runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrbench import api
from attrbench.contracts.record import Record
from attrbench.evaluation.folders import results_folder
from attrbench.evaluation.requests import request_report, several
from attrbench.plugins import registry as plugins

if TYPE_CHECKING:
    from attrbench.results import Results


def report(
    records: str | Path | Results | Iterable[Record | str | Path] = (),
    path: str | Path = "report.html",
    *,
    tasks: str | Sequence[str] = (),
    metric: str | None = None,
    format: str | None = None,  # noqa: A002  # named as the option of the command line
    highlight: str | Sequence[str] = (),
) -> Path:
    """Write a report on records: by default one HTML page with board, plots, gallery and provenance; return its path.

    Pictures come from the thumbnail sheets that runs leave beside their records: in the given folders, or where `run`
    wrote the records that it returned.

    Args:
        records: as for `leaderboard`.
        path: the file, which is replaced; its ending chooses the report.
        tasks: names of the tasks that are wanted; by default all.
        metric: what ranks; by default each task's main metric.
        format: a report with options, such as `html:k=5`; see `attrbench list reports`.
        highlight: methods whose runs stand out, with or without options.

    Raises:
        UsageError: for a task, metric or method that no record has, and for a wrong report or option.
        AttrbenchError: for a folder that is not there, no records, or a file that can't be written.
    """
    path = Path(path)
    chosen = request_report(plugins.registry(), format, path)
    from attrbench.reports.report_files import write_report  # Pillow and SciPy come with it

    board = api.leaderboard(records, tasks=tasks, metric=metric)
    return write_report(chosen, board, metric, _folders(records), path, several(highlight))


def _folders(records: Any) -> list[Path]:
    """Return the folders that records were taken from: those given, those of results, or that of `run`."""
    if hasattr(records, "paths"):
        return sorted({path.parent for path in records.paths})
    given = [records] if isinstance(records, str | Path) else list(records)
    return [Path(each) for each in given if not isinstance(each, Record)] if given else [results_folder(None)]
