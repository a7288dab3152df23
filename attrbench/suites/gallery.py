"""The layout of galleries: queries with the training images that count most, and least, for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.ranking import Ranking, top_k
from attrbench.contracts.record import Record
from attrbench.contracts.task import OpenTask
from attrbench.contracts.thumbnails import Thumbnails
from attrbench.data.thumbnail_pictures import thumbnail_of
from attrbench.evaluation.record_builder import task_fingerprint
from attrbench.reports.contact_sheet import ContactSheet, Heading, Strip
from attrbench.reports.html.gallery import Gallery, GalleryRun, make_gallery, tidy
from attrbench.suites.contents import RowTable, TaskTable
from attrbench.suites.layouts import opened_or_none
from attrbench.suites.table import Cell, Column, Line, Part
from attrbench.suites.world import SuiteWorld

MOST, LEAST = "most influential", "least influential"


@dataclass(frozen=True)
class Shown:
    """The queries of one task that a gallery shows, with a method's rankings of them.

    Attributes:
        title: model, task and method.
        opened: the task.
        record: of the method.
        chosen: indices of the queries.
        strips: name -> [m, k] ids and scores (NaN where they are not known) of all queries.
    """

    title: str
    opened: OpenTask
    record: Record
    chosen: Sequence[int]
    strips: dict[str, Ranking]


def shown_queries(world: SuiteWorld) -> Iterator[Shown]:
    """Yield the queries of each task with the rankings of each method; the tasks are opened for it."""
    file = world.file
    for needed in world.needed:
        table = needed.table
        rows = [(row, record) for row in file.rows_of(table) if (record := world.record(table, row)) is not None]
        opened = opened_or_none(world, needed) if rows else None
        if opened is None:
            continue
        fingerprint = task_fingerprint(needed.request.task, opened)
        for row, record in rows:
            if record.task.fingerprint != fingerprint:
                world.runs.problems.append(f"{record.method.label}: its record is of other data than the task has here")
                continue
            chosen = chosen_queries(record.query_groups, file.queries)
            title = f"{table.name}; ours: {record.method.label} on {needed.request.label}"
            yield Shown(title, opened, record, chosen, _strips(world, table, row, record))


def chosen_queries(groups: Sequence[str], count: int) -> list[int]:
    """Return the indices of so many queries, evenly from all groups: the first of each group, then the second."""
    seen: Counter[str] = Counter()
    turns = []
    for query, group in enumerate(groups):
        turns.append((seen[group], group, query))
        seen[group] += 1
    return [query for _, _, query in sorted(turns)[:count]]


def _strips(world: SuiteWorld, table: TaskTable, row: RowTable, record: Record) -> dict[str, Ranking]:
    """Return the rankings to show: the first items, and the last ones where all scores are known."""
    file, (k,) = world.file, world.file.k
    ids = np.array(record.ranking, np.int64)[:, :k]
    scores = world.scores(table, row)
    if scores is None:
        if file.least:
            world.runs.problems.append(f"{record.method.label}: records hold no scores, so the {LEAST} are not known")
        return {MOST: Ranking(ids, np.full(ids.shape, np.nan, np.float32))}
    first = Ranking(ids, np.take_along_axis(scores, np.maximum(ids, 0), axis=1))
    return {MOST: first, LEAST: _lowest(scores, file.least)} if file.least else {MOST: first}


def _lowest(scores: NDArray[np.float32], k: int) -> Ranking:
    """Return the k lowest of each row of scores, the lowest first."""
    lowest = top_k(-scores, k)
    return Ranking(lowest.ids, -lowest.scores)


def gallery_parts(shown: Sequence[Shown]) -> list[Part]:
    """Return a part for each task and method: rows are queries, columns ranks, cells items with their groups."""
    parts = []
    for each in shown:
        columns = [
            Column(str(rank + 1), name) for name, ranking in each.strips.items() for rank in range(ranking.ids.shape[1])
        ]
        lines = [Line(_query_name(each.opened, query), list(_cells(each, query))) for query in each.chosen]
        parts.append(Part(each.title, columns, lines))
    return parts


def _query_name(opened: OpenTask, query: int) -> str:
    queries = opened.queries
    about = (f"query {query}", queries.groups[query], tidy(queries.prompts[query])[:60])
    return ", ".join(filter(None, about))


def _cells(shown: Shown, query: int) -> Iterator[Cell]:
    groups = shown.opened.train.groups
    for ranking in shown.strips.values():
        for item in ranking.ids[query].tolist():
            yield Cell("", f"{item} {tidy(groups[item])[:24]}".strip() if item >= 0 else "–")


def contact_sheets(shown: Sequence[Shown]) -> list[ContactSheet]:
    """Return a contact sheet for each task and method."""
    return [
        ContactSheet(
            each.opened.queries,
            each.opened.train,
            [Strip(ranking, name if len(each.strips) > 1 else "") for name, ranking in each.strips.items()],
            Heading(each.title, each.record.method.summary),
            each.chosen,
            rows=None,
        )
        for each in shown
    ]


def html_galleries(shown: Sequence[Shown]) -> list[tuple[str, Gallery]]:
    """Return title and gallery of each task and method, for a page."""
    return [(each.title, _html_gallery(each)) for each in shown]


def _html_gallery(shown: Shown) -> Gallery:
    items = sorted({i for r in shown.strips.values() for i in r.ids[list(shown.chosen)].ravel().tolist() if i >= 0})
    thumbnails = Thumbnails(
        "",
        "",
        {query: thumbnail_of(shown.opened.queries, query) for query in shown.chosen},
        {item: thumbnail_of(shown.opened.train, item) for item in items},
    )
    runs = [GalleryRun(name, ranking.ids.tolist()) for name, ranking in shown.strips.items()]
    return make_gallery(runs, thumbnails, shown.chosen)
