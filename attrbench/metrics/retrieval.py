"""Retrieval metrics: detection rate, recall, average precision, and recall of approximate search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.metric import Metric, Outcome, PerQuery


class DetectionRate(Metric):
    """The metric detection rate: the share of the top k that belongs to the query's group (DMin, section 4.1)."""

    name = "detection-rate"
    summary = "share of the top k that is of the query's group; at most group size / k"

    def compute(self, outcome: Outcome, cutoffs: Sequence[int]) -> list[PerQuery]:
        """Return the detection rate of each query for each cut-off k; an empty list if items have no groups."""
        if outcome.relevant is None:
            return []
        group_size = outcome.relevant.sum(axis=1)
        return [
            PerQuery(
                values=_hits(outcome.ranked[:, :k], outcome.relevant).sum(axis=1) / k,
                ceiling=np.minimum(group_size, k) / k,
                expected=group_size / outcome.relevant.shape[1],
                k=k,
            )
            for k in cutoffs
            if k <= outcome.ranked.shape[1]
        ]


class Recall(Metric):
    """The metric recall: the share of the training items of the query's group that are in the top k."""

    name = "recall"
    summary = "share of the query's group that is in the top k"

    def compute(self, outcome: Outcome, cutoffs: Sequence[int]) -> list[PerQuery]:
        """Return the recall of each query for each cut-off k; an empty list if items have no groups."""
        if outcome.relevant is None:
            return []
        n = outcome.relevant.shape[1]
        group_size = outcome.relevant.sum(axis=1)
        divisor = np.maximum(group_size, 1)
        return [
            PerQuery(
                values=_hits(outcome.ranked[:, :k], outcome.relevant).sum(axis=1) / divisor,
                ceiling=np.minimum(group_size, k) / divisor,
                expected=np.where(group_size > 0, k / n, 0.0),
                k=k,
            )
            for k in cutoffs
            if k <= outcome.ranked.shape[1]
        ]


class AveragePrecision(Metric):
    """The metric average precision: mean precision at the ranks of the query's group; needs scores of all items."""

    name = "average-precision"
    summary = "mean precision at the ranks of the query's group, over the whole ranking"

    def compute(self, outcome: Outcome, cutoffs: Sequence[int]) -> list[PerQuery]:
        """Return the average precision of each query in a list of one; empty without groups or scores of all items."""
        if outcome.scores is None or outcome.relevant is None:
            return []
        order = np.argsort(-outcome.scores, axis=1, kind="stable")
        hits = np.take_along_axis(outcome.relevant, order, axis=1)
        n = hits.shape[1]
        group_size = hits.sum(axis=1)
        precision = np.cumsum(hits, axis=1) / np.arange(1, n + 1)
        values = (precision * hits).sum(axis=1) / np.maximum(group_size, 1)
        # The mean over uniformly random rankings: a relevant item at rank i has, before it, (i-1)(R-1)/(n-1) others.
        harmonic = (1 / np.arange(1, n + 1)).sum()
        expected = (harmonic + (n - harmonic) * (group_size - 1) / max(1, n - 1)) / n
        return [PerQuery(values=values, expected=np.where(group_size > 0, expected, 0.0))]


class AnnRecall(Metric):
    """The metric recall of approximate search: share of the exact top k that is in the approximate top k."""

    name = "ann-recall"
    summary = "share of the exact top k that an approximate search found"

    def compute(self, outcome: Outcome, cutoffs: Sequence[int]) -> list[PerQuery]:
        """Return the share of the exact top k that was found, by cut-off; an empty list for an exact search."""
        if outcome.exact_ranked is None:
            return []
        approximate, exact = outcome.ranked, outcome.exact_ranked
        return [
            PerQuery(
                values=np.array(
                    [len(np.intersect1d(f[:k], e[:k])) / k for f, e in zip(approximate, exact, strict=True)]
                ),
                k=k,
            )
            for k in cutoffs
            if k <= approximate.shape[1]
        ]


def _hits(ids: NDArray[np.int64], relevant: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return [m, k] bool, whether the item at each rank is in the query's group; missing items (-1) are not."""
    hits: NDArray[np.bool_] = np.take_along_axis(relevant, np.maximum(ids, 0), axis=1) & (ids >= 0)
    return hits
