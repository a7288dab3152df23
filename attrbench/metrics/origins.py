"""Metrics of known origins: where a method ranks the few training items that a query is known to come from.

They apply where every query's group is small, as in tasks with planted items; families of hundreds have retrieval
metrics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.metric import Metric, Outcome, PerQuery

MOST = 10
"""Training items that a query's group may have for its items to count as the query's known origins."""


class HitRate(Metric):
    """The metric hit rate: whether any of the top k is a known origin of the query."""

    name = "hit-rate"
    summary = "whether one of the top k is of the query's group, where groups have at most 10 items"
    cutoffs = (1, 10)

    def compute(self, outcome: Outcome, cutoffs: Sequence[int]) -> list[PerQuery]:
        """Return 1 or 0 for each query at k = 1 and k = 10, whatever `cutoffs`; empty without known origins."""
        if (origins := _origins(outcome)) is None:
            return []
        ranks = _first_ranks(outcome.ranked, origins)
        n = origins.shape[1]
        return [
            PerQuery((ranks <= k).astype(np.float64), expected=1 - _none_before(k, origins.sum(axis=1), n), k=k)
            for k in self.cutoffs
            if k <= outcome.ranked.shape[1]
        ]


class OriginRank(Metric):
    """The metric rank of the origin: the rank of the best placed known origin of the query; 1 is best."""

    name = "origin-rank"
    summary = "rank of the best placed item of the query's group, where groups have at most 10 items; lower is better"
    higher_is_better = False

    def compute(self, outcome: Outcome, cutoffs: Sequence[int]) -> list[PerQuery]:
        """Return the rank of each query; empty without known origins, or without scores of all items."""
        origins = _origins(outcome)
        if origins is None or outcome.scores is None:
            return []
        order = np.argsort(-outcome.scores, axis=1, kind="stable")
        n, size = origins.shape[1], origins.sum(axis=1)
        return [PerQuery(_first_ranks(order, origins).astype(np.float64), expected=(n + 1) / (size + 1))]


def _origins(outcome: Outcome) -> NDArray[np.bool_] | None:
    """Return [m, n] bool, whether an item is a known origin; None where a query's group is empty or too large."""
    if outcome.relevant is None:
        return None
    size = outcome.relevant.sum(axis=1)
    return outcome.relevant if len(size) and size.min() > 0 and size.max() <= MOST else None


def _first_ranks(ranked: NDArray[np.int64], origins: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return [m], the rank of the first origin in each ranking ([m, depth]), counted from 1; depth + 1 for none."""
    hits = np.take_along_axis(origins, np.maximum(ranked, 0), axis=1) & (ranked >= 0)
    ranks: NDArray[np.int64] = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, ranked.shape[1] + 1)
    return ranks


def _none_before(k: int, size: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Return the probability that none of `size` items is among the first k of n in random order."""
    left = n - size[:, None] - np.arange(k)
    probability: NDArray[np.float64] = np.prod(np.maximum(left, 0) / (n - np.arange(k)), axis=1)
    return probability
