"""Checks of a scorer's scores and rankings: those of another shape or kind than was asked for are refused."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.method import ExhaustiveScorer
from attrbench.contracts.ranking import Ranking
from attrbench.errors import AttrbenchError


def checked_scores(scorer: ExhaustiveScorer, queries: QueryFeatures, items: int) -> NDArray[np.float32]:
    """Return the scores of all training items for queries, [m, n].

    Raises:
        AttrbenchError: where the scorer gives something of another shape, or no floating-point numbers.
    """
    scores = np.asarray(scorer.scores(queries))
    expected = (len(queries.ids), items)
    if scores.shape != expected or not np.issubdtype(scores.dtype, np.floating):
        raise AttrbenchError(
            f"the method's scores are {scores.dtype} {list(scores.shape)} instead of float32 {list(expected)}:"
            " a row for each query, a column for each training item"
        )
    return scores.astype(np.float32, copy=False)


def check_ranking(ranking: Ranking, queries: int, items: int) -> None:
    """Refuse a ranking that a search found if it is none of the training items for each query.

    Raises:
        AttrbenchError: where ids or scores have another shape, or an id is twice in a row or of no training item.
    """
    ids: NDArray[np.int64] = np.asarray(ranking.ids)
    scores = np.asarray(ranking.scores)
    if ids.ndim != 2 or len(ids) != queries or scores.shape != ids.shape or not np.issubdtype(ids.dtype, np.integer):
        raise AttrbenchError(
            f"the method's ranking has ids {ids.dtype} {list(ids.shape)} and scores {list(scores.shape)} instead of"
            f" int64 and float32 [{queries}, k]: a row for each query"
        )
    if (strange := (ids < -1) | (ids >= items)).any():
        query, place = (int(index) for index in np.argwhere(strange)[0])
        raise AttrbenchError(
            f"the method ranks item {ids[query, place]} for query {query}, and there are {items} training items"
        )
    ordered = np.sort(ids, axis=1)
    if (twice := (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        query, place = (int(index) for index in np.argwhere(twice)[0])
        raise AttrbenchError(f"the method ranks item {ordered[query, place]} twice for query {query}")
