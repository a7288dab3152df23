"""Refusal of scores and weights that mean nothing: NaN, infinite, or equal for all training items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.method import ExhaustiveScorer, Scorer
from attrbench.contracts.ranking import Ranking
from attrbench.errors import AttrbenchError

ROUNDING = 8 * float(np.finfo(np.float32).eps)
"""Relative difference of float32 scores that rounding alone makes."""


def check_weights(module: torch.nn.Module) -> None:
    """Raise an error if a parameter of the network is NaN or infinite: every gradient would be lost.

    Raises:
        AttrbenchError: names the first such parameter.
    """
    for name, parameter in module.named_parameters():
        if parameter.is_meta or not parameter.is_floating_point():  # offloaded, or quantized: its gradients tell
            continue
        if not torch.linalg.vector_norm(parameter.detach(), ord=torch.inf).isfinite():
            lost = int((~parameter.isfinite()).sum())
            raise AttrbenchError(
                f"the model's weights hold NaN or infinite values ({lost} of {parameter.numel()} in {name}), so no"
                " gradient means anything: save the model again, or take an earlier checkpoint"
            )


def check_finite(ranking: Ranking, first: int = 0) -> None:
    """Raise an error if the score of a ranked item is NaN or infinite; queries count from `first` in the message.

    Raises:
        AttrbenchError: names the item, the query, and how many such scores there are.
    """
    bad = ~np.isfinite(ranking.scores) & (ranking.ids >= 0)
    if not bad.any():
        return
    query, place = (int(index) for index in np.argwhere(bad)[0])
    kind = "NaN" if np.isnan(ranking.scores[query, place]) else "infinite"
    others = f", as are {more} others" if (more := int(bad.sum()) - 1) else ""
    raise AttrbenchError(
        f"the score of training item {ranking.ids[query, place]} for query {first + query} is {kind}{others}: features"
        " that are not finite, or numbers too large for float32"
    )


def check_finite_scores(scores: NDArray[np.float32], first: int = 0) -> None:
    """Raise an error if a score of any training item, [m, n], is NaN or infinite, as `check_finite` does."""
    check_finite(Ranking(np.broadcast_to(np.arange(scores.shape[1]), scores.shape), scores), first)


def are_equal(scores: NDArray[np.float32]) -> bool:
    """Return whether several scores differ by no more than float32 rounding, so that their order means nothing."""
    return len(scores) > 1 and float(np.ptp(scores)) <= ROUNDING * float(np.abs(scores).max())


def without_equal(
    scorer: Scorer, queries: QueryFeatures, ranking: Ranking, nonfinite: Sequence[tuple[str, int, float]]
) -> Ranking:
    """Return a ranking without the queries for which all training items have equal scores: their ids become -1.

    Args:
        scorer: gave the ranking.
        queries: of the ranking.
        ranking: [m, k] ids and scores.
        nonfinite: the lost gradients, which the message tells.

    Raises:
        AttrbenchError: where a score is NaN or infinite, or no query is left.
    """
    check_finite(ranking)
    equal = [query for query in range(len(ranking.ids)) if _is_equal(scorer, queries, ranking, query)]
    if len(equal) == len(ranking.ids):
        cause = (
            lost_line(nonfinite)
            if nonfinite
            else "the gradients are zero, or too small or too large for float32, or the items are all alike"
        )
        raise AttrbenchError(f"all training items have the same score for every query, so there is no ranking: {cause}")
    ids = ranking.ids.copy()
    ids[equal] = -1
    return Ranking(ids, ranking.scores)


def _is_equal(scorer: Scorer, queries: QueryFeatures, ranking: Ranking, query: int) -> bool:
    """Return whether all training items have equal scores for a query, which a few found items cannot tell alone."""
    found = ranking.scores[query][ranking.ids[query] >= 0]
    if len(found) > 1 and not are_equal(found):
        return False
    complete = scorer if isinstance(scorer, ExhaustiveScorer) else scorer.exact()
    return isinstance(complete, ExhaustiveScorer) and are_equal(complete.scores(queries.query(query))[0])


def lost_line(nonfinite: Sequence[tuple[str, int, float]]) -> str:
    """Return one line about gradients that were NaN or infinite: how many, and the first."""
    split, item, timestep = nonfinite[0]
    return (
        f"{len(nonfinite)} gradients were NaN or infinite and count as zero, first that of {split} item {item} at"
        f" timestep {timestep:g}"
    )


def equal_line(equal: Sequence[int], total: int) -> str:
    """Return one line about queries without a ranking, because the scores of all training items are equal."""
    return (
        f"{len(equal)} of {total} queries have no ranking, first query {equal[0]}: all training items have the same"
        " score"
    )
