"""The queries of a report: a strip with every query's value by method, and paired differences from the best method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.record import MetricResult, Record
from attrbench.metrics.comparisons import result_difference
from attrbench.reports.html.board import BAR, Bar
from attrbench.reports.html.plot import shortened
from attrbench.reports.html.scale import linear
from attrbench.reports.ranking import Row, Table
from attrbench.reports.table_cells import shown

SHADES = 10
"""Steps of color in a strip, besides that of the smallest value."""
CELL, ROW, HEAD = 6, 14, 18
"""Size in pixels: width and height of a cell, and room for the groups at the top."""
MOST_QUERIES = 200
ROUNDING = 1e-12
"""Difference of two values up to which a query counts as equal."""


@dataclass(frozen=True)
class Shade:
    """All cells of one shade as the path of an SVG element, with their number from 0 (lowest) to `SHADES`."""

    number: int
    path: str


@dataclass(frozen=True)
class Strip:
    """A picture of every query's value: a row a method, a column a query, stronger for better.

    Attributes:
        metric: whose values.
        description: what it shows, in a sentence.
        width, height: in pixels.
        names: label of each row.
        groups: (x, group) of the first query of each group, in the order of columns.
        shades: the cells.
    """

    metric: str
    description: str
    width: int
    height: int
    names: Sequence[str]
    groups: Sequence[tuple[int, str]]
    shades: Sequence[Shade]


def make_strip(table: Table) -> Strip | None:
    """Return the strip of a table's ranked runs; None where no metric has a value for each of some queries."""
    found = _metric_by_query(table)
    if found is None:
        return None
    metric, runs = found
    values = np.array([result.per_query for _, result in runs])
    groups = list(runs[0][0].query_groups) or [""] * values.shape[1]
    order = sorted(range(len(groups)), key=lambda query: (groups[query], query))[:MOST_QUERIES]
    values = values[:, order]
    low, high = float(values.min()), float(values.max())
    parts = (values - low) / (high - low) if high > low else np.zeros_like(values)
    better = parts if runs[0][1].higher_is_better else 1 - parts
    starts = [place for place in range(len(order)) if not place or groups[order[place]] != groups[order[place - 1]]]
    means = values.mean(axis=0)
    hardest, easiest = (order[int(pick(means))] for pick in (np.argmin, np.argmax))
    return Strip(
        metric=shown(metric),
        description=f"{len(runs)} runs by {len(order)} queries, from {low:.3f} (faint) to {high:.3f} (full color)."
        f" Lowest on average: query {hardest}; highest: query {easiest}.",
        width=CELL * len(order),
        height=HEAD + ROW * len(runs),
        names=[shown(record.method.label) for record, _ in runs],
        groups=[(CELL * place, shortened(shown(groups[order[place]]), 8)) for place in starts],
        shades=_shades(np.rint(better * SHADES).astype(int)),
    )


def _metric_by_query(table: Table) -> tuple[str, list[tuple[Record, MetricResult]]] | None:
    """Return the metric that ranks, or else the first one, that has one value a query, and the runs that have it."""
    for name in dict.fromkeys([table.metric, *(r.name for row in table.ranked[:1] for r in row.record.metrics)]):
        pairs = [(row.record, row.record.metric(name)) for row in table.ranked]
        runs = [(record, result) for record, result in pairs if result is not None and _has_every_query(record, result)]
        if runs:
            return name, runs
    return None


def _has_every_query(record: Record, result: MetricResult) -> bool:
    return result.finite and result.clusters == 1 and len(result.per_query) == record.coverage.queries


def _shades(numbers: NDArray[np.int_]) -> list[Shade]:
    """Return one path for each shade; cells of a shade that lie side by side are one stretch."""
    paths: dict[int, list[str]] = {}
    for row, cells in enumerate(numbers):
        ends = [0, *(np.flatnonzero(np.diff(cells)) + 1).tolist(), len(cells)]
        for start, end in pairwise(ends):
            x, y, width = CELL * start, HEAD + ROW * row, CELL * (end - start)
            paths.setdefault(int(cells[start]), []).append(f"M{x} {y}h{width}v{ROW - 1}h-{width}z")
    return [Shade(number, "".join(parts)) for number, parts in sorted(paths.items())]


@dataclass(frozen=True)
class Difference:
    """A row of the paired differences: a method against the best one, query by query.

    Attributes:
        method: its label.
        value: mean of its values less those of the best.
        interval: as text, empty where none is known; `separated` tells whether it lies on one side of 0.
        bar: the two as a picture.
        wins, equal, losses: numbers of queries.
    """

    method: str
    value: float
    interval: str
    separated: bool
    bar: Bar
    wins: int
    equal: int
    losses: int


@dataclass(frozen=True)
class Differences:
    """The paired differences of a table's runs from its best one."""

    best: str
    metric: str
    zero: float
    rows: Sequence[Difference]


def make_differences(table: Table) -> Differences | None:
    """Return the paired differences from the first ranked run; None where no other has values of equal queries."""
    if not table.ranked:
        return None
    best = table.ranked[0].record.metric(table.metric)
    pairs = [(row, row.record.metric(table.metric)) for row in table.ranked[1:]]
    known = [
        (row, result, result_difference(result, best))
        for row, result in pairs
        if result and best and len(result.per_query) == len(best.per_query) > 1 and result.clusters == best.clusters
    ]
    if best is None or not known:
        return None
    ends = [0.0, *(bound for _, _, interval in known for bound in interval or ())]
    ends += [result.value - best.value for _, result, _ in known]
    scale = linear([min(ends), max(ends)], 2, BAR - 2)
    zero = scale.at(0.0)
    rows = []
    for row, result, interval in known:
        low, high = interval or (math.nan, math.nan)
        own = np.array(result.per_query) - np.array(best.per_query)
        signs = np.where(np.abs(own) <= ROUNDING, 0, np.sign(own)) * (1 if best.higher_is_better else -1)
        ends_at = [None, None] if interval is None else [scale.at(bound) for bound in interval]
        bar = Bar(scale.at(result.value - best.value), ends_at[0], ends_at[1], zero)
        rows.append(
            Difference(
                method=_label(row),
                value=result.value - best.value,
                interval=f"[{low:+.3f}, {high:+.3f}]" if interval else "",
                separated=low > 0 or high < 0,
                bar=bar,
                wins=int((signs > 0).sum()),
                equal=int((signs == 0).sum()),
                losses=int((signs < 0).sum()),
            )
        )
    return Differences(_label(table.ranked[0]), shown(table.metric), zero, rows)


def _label(row: Row) -> str:
    return shown(row.record.method.label)
