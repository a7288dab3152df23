"""Write the thumbnail sheet of a task beside its records, at the end of a run, so that reports have pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.record import Record
from attrbench.contracts.thumbnails import Thumbnails
from attrbench.data.thumbnail_pictures import thumbnail_of
from attrbench.data.thumbnail_sheet import add_thumbnails, read_thumbnails, sheet_path

if TYPE_CHECKING:
    from attrbench.contracts.task import OpenTask

QUERIES = 100
"""Queries of a task, from its first one on, whose pictures are kept."""
TOP = 10
"""Training items at the top of each query's ranking whose pictures are kept."""

TopScores = Mapping[str, NDArray[np.float32]]
"""Identity of a record -> [m, depth] scores of the items that its ranking names."""


def lacks_pictures(folder: Path, records: Sequence[Record]) -> bool:
    """Return whether items that these records of one task rank at the top have no picture in the task's sheet."""
    task = records[0].task
    try:
        sheet = read_thumbnails(sheet_path(folder, task.name, task.fingerprint))
    except (OSError, ValueError):
        return True
    queries, train = _items_shown(records)
    return not (queries <= sheet.queries.keys() and train <= sheet.train.keys())


def write_thumbnails(folder: Path, opened: OpenTask, records: Sequence[Record], scores: TopScores) -> None:
    """Add the pictures of what records of one task rank at the top to the sheet beside them, with the scores.

    Args:
        folder: of the records, `--out`.
        opened: the task.
        records: of runs on it, at least one.
        scores: of the records that were just scored.

    Raises:
        OSError: where the sheet can't be written.
    """
    task = records[0].task
    queries, train = _items_shown(records)
    found = Thumbnails(
        task.name,
        task.fingerprint,
        {item: thumbnail_of(opened.queries, item) for item in sorted(queries)},
        {item: thumbnail_of(opened.train, item) for item in sorted(train)},
        {identity: _rounded(rows) for identity, rows in scores.items()},
    )
    add_thumbnails(sheet_path(folder, task.name, task.fingerprint), found)


def _items_shown(records: Sequence[Record]) -> tuple[set[int], set[int]]:
    """Return the queries, and the training items at the top of their rankings, that a report shows."""
    rankings = [record.ranking[:QUERIES] for record in records]
    queries = set(range(max(map(len, rankings), default=0)))
    return queries, {item for rows in rankings for row in rows for item in row[:TOP] if item >= 0}


def _rounded(rows: NDArray[np.float32]) -> list[list[float | None]]:
    """Return scores with four digits, as a report shows them; None where one is not finite."""
    return [
        [float(f"{score:.4g}") if math.isfinite(score) else None for score in row[:TOP].tolist()]
        for row in rows[:QUERIES]
    ]
