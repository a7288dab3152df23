"""Agreement of two methods about the same queries: rank correlation of all scores, and overlap of the top items."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attrbench.metrics.lds import rank_correlation

PERSISTENCE = 0.9
"""Parameter p of the rank-biased overlap: the first ten ranks have 86% of the weight."""

Scores = NDArray[np.float32] | None


@dataclass(frozen=True)
class Agreement:
    """The agreement of two methods, for each query; NaN where one of them has no ranking, or not what is compared.

    Attributes:
        first, second: labels of the methods.
        k: depth of the overlap.
        spearman: Spearman's rank correlation of the scores of all training items, from -1 to 1; NaN where a method
            gives the scores of its top items only.
        overlap: share of the k top items that both have.
        rbo: rank-biased overlap of the top items, from 0 to 1, which weighs the first ranks most.
    """

    first: str
    second: str
    k: int
    spearman: tuple[float, ...]
    overlap: tuple[float, ...]
    rbo: tuple[float, ...]

    def means(self) -> dict[str, float | None]:
        """Return the mean of each measure over the queries that have it; None where none has."""
        return {name: _mean(getattr(self, name)) for name in ("spearman", "overlap", "rbo")}

    def of_query(self, query: int) -> dict[str, float | None]:
        """Return each measure for one query; None where there is none."""
        values = {name: getattr(self, name)[query] for name in ("spearman", "overlap", "rbo")}
        return {name: None if math.isnan(value) else value for name, value in values.items()}


def agreement(labels: tuple[str, str], ids: Sequence[NDArray[np.int64]], scores: Sequence[Scores]) -> Agreement:
    """Return the agreement of two methods about m queries.

    Args:
        labels: of the two methods.
        ids: of each method, [m, k] top items, strongest first; -1 where there are fewer or none.
        scores: of each method, [m, n] scores of all items; None where it gives none.
    """
    tops = [[[int(item) for item in row if item >= 0] for row in method] for method in ids]
    pairs = list(zip(*tops, strict=True))
    correlations = [math.nan] * len(pairs)
    if scores[0] is not None and scores[1] is not None:
        correlations = [
            spearman(a, b) if all(pair) else math.nan for a, b, pair in zip(scores[0], scores[1], pairs, strict=True)
        ]
    return Agreement(
        *labels,
        k=max((len(top) for pair in pairs for top in pair), default=0),
        spearman=tuple(correlations),
        overlap=tuple(overlap(*pair) for pair in pairs),
        rbo=tuple(rank_biased_overlap(*pair) for pair in pairs),
    )


def joined(parts: Iterable[Agreement]) -> Agreement:
    """Return the agreement of the same two methods over the queries of several blocks."""
    first, *others = parts
    every = (first, *others)
    return replace(
        first,
        k=max(part.k for part in every),
        spearman=tuple(value for part in every for value in part.spearman),
        overlap=tuple(value for part in every for value in part.overlap),
        rbo=tuple(value for part in every for value in part.rbo),
    )


def spearman(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return Spearman's rank correlation of two [n] scores (equal scores share their mean rank); NaN for constant."""
    constant = not (np.ptp(first) and np.ptp(second))
    return math.nan if constant else float(rank_correlation(first[None], second[None])[0])


def overlap(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the share of the longer of two lists of distinct items that both have; NaN if one is empty."""
    return len({*first} & {*second}) / max(len(first), len(second)) if first and second else math.nan


def rank_biased_overlap(first: Sequence[int], second: Sequence[int], p: float = PERSISTENCE) -> float:
    """Return the extrapolated rank-biased overlap of two top lists, cut to the same depth; NaN if one is empty.

    Webber, Moffat, Zobel (2010), "A similarity measure for indefinite rankings", equation 32: (X_k / k) p^k +
    (1 - p) / p times the sum over depths d of (X_d / d) p^d, X_d being the number of common items of the first d.
    """
    depth = min(len(first), len(second))
    if not depth:
        return math.nan
    seen: tuple[set[int], set[int]] = (set(), set())
    common, total = 0, 0.0
    for d, (a, b) in enumerate(zip(first[:depth], second[:depth], strict=True), start=1):
        common += (a in seen[1]) + (b in seen[0]) + (a == b)
        seen[0].add(a)
        seen[1].add(b)
        total += common / d * p**d
    return common / depth * p**depth + (1 - p) / p * total


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None
