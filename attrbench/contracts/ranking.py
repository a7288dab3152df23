"""The k largest scores, with ties to the smaller index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.method import Ranking


def top_k(scores: NDArray[np.float32], k: int) -> Ranking:
    """The k largest of each row of `scores` ([m, n]), largest first; equal scores in the order of their indices.

    NaN counts as smaller than everything.
    """
    scores = np.where(np.isnan(scores), np.float32(-np.inf), scores)
    m, n = scores.shape
    k = min(k, n)
    ids = np.empty((m, k), np.int64)
    for row in range(m):
        ids[row] = _top(scores[row], k)
    return Ranking(ids, np.take_along_axis(scores, ids, axis=1))


def _top(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    if k == len(scores):
        chosen = np.arange(k)
    else:
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        above = np.flatnonzero(scores > threshold)
        equal = np.flatnonzero(scores == threshold)[: k - len(above)]
        chosen = np.sort(np.concatenate([above, equal]))
    return chosen[np.argsort(-scores[chosen], kind="stable")]
