"""Rankings: the k highest-scored training items of each query, and their selection from scores."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Ranking(NamedTuple):
    """The k most influential training items of each query, strongest first: [m, k] ids and scores.

    Attributes:
        ids: [m, k] indices into the training set, strongest first; -1 where a search found fewer than k.
        scores: [m, k] their scores; larger means more influential.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]


def top_k(scores: NDArray[np.float32], k: int) -> Ranking:
    """Return the k largest of each row of `scores` ([m, n]), largest first; of equal scores the smaller index first.

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
