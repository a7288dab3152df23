"""Files of reports: gather the thumbnails that lie beside records, have a report made, and write it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attrbench.contracts.report import Material, Report
from attrbench.contracts.thumbnails import Thumbnails
from attrbench.data.thumbnail_sheet import find_thumbnails
from attrbench.errors import AttrbenchError
from attrbench.files import write_atomically
from attrbench.reports.leaderboard import Leaderboard, check_methods

logger = logging.getLogger("attrbench")


def write_report(
    report: Report[Any],
    board: Leaderboard,
    metric: str | None,
    folders: Iterable[Path],
    path: Path,
    highlight: Sequence[str] = (),
) -> Path:
    """Make a report of a leaderboard's records, write it, and return its path.

    Args:
        report: makes the file.
        board: the records, ranked.
        metric: what ranked them; None for each task's main metric.
        folders: those of the records, in which thumbnail sheets are looked for; damaged ones are logged and left out.
        path: the file, which is replaced.
        highlight: methods whose runs shall stand out.

    Raises:
        UsageError: for a method to highlight that no record has.
        AttrbenchError: where the file can't be written.
    """
    records = [row.record for table in board.tables for row in [*table.ranked, *table.below]]
    check_methods(records, highlight)
    thumbnails: dict[str, Thumbnails] = {}
    for folder in folders:
        found, problems = find_thumbnails(folder)
        thumbnails |= {key: thumbnails[key].joined(new) if key in thumbnails else new for key, new in found.items()}
        for problem in problems:
            logger.warning("left out %s", problem)
    try:
        write_atomically(path, report.make(Material(records, metric, thumbnails, highlight)))
    except OSError as error:
        raise AttrbenchError(f"cannot write the report {path}: {error.strerror}; name another file") from None
    return path
