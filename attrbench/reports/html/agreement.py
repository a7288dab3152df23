"""The agreement of methods: how many of their first training items they share, and in how equal an order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attrbench.reports.ranking import Table
from attrbench.reports.table_cells import shown

TOP = 10
"""Items whose overlap is counted."""
FEWEST = 5
"""Items that two rankings of a query must share for a correlation."""
MOST = 60
"""Runs that are compared, the best ones."""
SHADES = 10


@dataclass(frozen=True)
class Square:
    """A cell of the agreement table: its text and its shade from 0 to `SHADES`; empty where there is no value."""

    text: str
    shade: int


@dataclass(frozen=True)
class Matrix:
    """A symmetric table of the agreement of every two methods.

    Attributes:
        title, description: what it shows.
        rows: the cells of each method, in the order of the names.
    """

    title: str
    description: str
    rows: Sequence[Sequence[Square]]


@dataclass(frozen=True)
class Agreement:
    """The agreement of a table's methods: their names and one matrix for each measure."""

    names: Sequence[str]
    matrices: Sequence[Matrix]


def make_agreement(table: Table) -> Agreement | None:
    """Return the agreement of ranked runs; None where fewer than two have rankings of equal queries."""
    ranked = [row.record for row in table.ranked if row.record.ranking]
    runs = [record for record in ranked if len(record.ranking) == len(ranked[0].ranking)][:MOST]
    if len(runs) < 2:
        return None
    overlap, correlation = agreement([record.ranking for record in runs])
    depth = max(len(row) for record in runs for row in record.ranking)
    top = min(TOP, depth)
    matrices = [
        Matrix(
            f"Overlap of the first {top}",
            f"Share of the first {top} items of one that the other has as well.",
            _squares(overlap),
        ),
        Matrix(
            "Rank correlation",
            f"Correlation of the ranks (1 to {depth}) that two methods give to the items that both rank; queries with"
            f" fewer than {FEWEST} such items are left out.",
            _squares(correlation),
        ),
    ]
    return Agreement([shown(record.method.label) for record in runs], matrices)


def agreement(rankings: Sequence[Sequence[Sequence[int]]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return [n, n] mean overlap of the first items, and [n, n] mean correlation of ranks over the queries.

    Args:
        rankings: of n methods: for each query item ids, the strongest first; -1 where a search found fewer.

    Returns:
        Overlap from 0 to 1, and correlation from -1 to 1 of the ranks of shared items, NaN for two methods that share
        fewer than `FEWEST` for every query.
    """
    n, queries = len(rankings), len(rankings[0])
    overlap, total, counted = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
    for query in range(queries):
        ranks = _ranks([rows[query] for rows in rankings])
        first = ((ranks > 0) & (ranks <= TOP)).astype(float)
        wanted = max(1.0, min(TOP, *(float(row.sum()) for row in (ranks > 0)))) if n else 1.0
        overlap += first @ first.T / wanted
        correlation = _correlations(ranks)
        known = np.isfinite(correlation)
        total += np.where(known, correlation, 0.0)
        counted += known
    with np.errstate(invalid="ignore"):
        return overlap / queries, total / np.where(counted, counted, np.nan)


def _ranks(rows: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return [n, items] the rank from 1 that each method gives each item that any of them ranks; 0 for none."""
    items = sorted({item for row in rows for item in row if item >= 0})
    place = {item: number for number, item in enumerate(items)}
    ranks = np.zeros((len(rows), len(items)))
    for method, row in enumerate(rows):
        for rank, item in enumerate(row, start=1):
            if item >= 0:
                ranks[method, place[item]] = rank
    return ranks


def _correlations(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [n, n] correlation of the ranks of shared items; NaN where too few are shared, or ranks do not vary."""
    both = (ranks > 0).astype(float)
    count = both @ both.T
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = ranks @ both.T / count  # [a, b]: mean of a's ranks over what b ranks too
        square = ranks**2 @ both.T / count - mean**2
        product = ranks @ ranks.T / count - mean * mean.T
        correlation: NDArray[np.float64] = product / np.sqrt(square * square.T)
    correlation[(count < FEWEST) | (square <= 1e-9) | (square.T <= 1e-9)] = np.nan
    return correlation


def _squares(values: NDArray[np.float64]) -> list[list[Square]]:
    return [
        [_square(float(value), row == column) for column, value in enumerate(cells)] for row, cells in enumerate(values)
    ]


def _square(value: float, is_own: bool) -> Square:
    if is_own or not np.isfinite(value):
        return Square("" if is_own else "–", 0)
    return Square(f"{value:.2f}".replace("0.", "."), round(SHADES * min(max(value, 0.0), 1.0)))
