"""Metrics of group scores against what models do that were trained without one group each (leave one group out).

The effect of a group on a query is how far the query's loss rises, or its picture moves, when a model is trained
without the group. After Murata et al., "GUDA", 2026 (arXiv 2601.22651), who compare group scores with such models.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attrbench.metrics.intervals import RESAMPLES
from attrbench.metrics.lds import rank_correlation

Floats = NDArray[np.float64]
Pool = Literal["sum", "mean", "max"]
POOLS: tuple[Pool, ...] = ("sum", "mean", "max")
DEPTH = 3
"""Groups that the discounted gain looks at."""


def group_scores(scores: NDArray[np.floating], groups: NDArray[np.bool_], pool: Pool) -> Floats:
    """Return a method's score of each group: the sum, mean or maximum of the scores of its items, [m, G].

    Args:
        scores: [m, n].
        groups: [G, n] bool, the items of each group, none of them empty.
        pool: how scores of items become one of the group.
    """
    values = scores.astype(np.float64)
    if pool == "max":
        return np.stack([values[:, members].max(axis=1) for members in groups], axis=1)
    sums: Floats = values @ groups.astype(np.float64).T
    return sums / groups.sum(axis=1) if pool == "mean" else sums


def top_group(predicted: Floats, effects: Floats) -> Floats:
    """Return for each query 1 where the group scored highest is the one of the largest effect, else 0, [m].

    Groups that share the highest score share the point.

    Args:
        predicted: [m, G] scores of groups.
        effects: [m, G] effects of leaving them out.
    """
    is_best = effects == effects.max(axis=1, keepdims=True)
    is_first = predicted == predicted.max(axis=1, keepdims=True)
    share: Floats = (is_first & is_best).sum(axis=1) / is_first.sum(axis=1)
    return share


def shares_of_top(ranked: NDArray[np.int64], groups: NDArray[np.bool_], k: int) -> Floats:
    """Return the share of each group among the first k items of a ranking, [m, G]; places left empty are of none.

    Args:
        ranked: [m, depth] training ids, strongest first; -1 where a search found fewer.
        groups: [G, n] bool, the items of each group.
        k: at most depth.
    """
    top = ranked[:, :k]
    hits = groups[:, np.maximum(top, 0)] & (top >= 0)  # [G, m, k]
    shares: Floats = hits.mean(axis=2).T
    return shares


def share_of_top_group(shares: Floats, effects: Floats) -> Floats:
    """Return for each query the share that the group of the largest effect has, [m]: `precision@k` of its items.

    It takes rankings alone, so methods that give only their top have it as well. Of groups that share the largest
    effect the shares add up.

    Args:
        shares: [m, G], as `shares_of_top` gives them.
        effects: [m, G] effects of leaving groups out.
    """
    is_best = effects == effects.max(axis=1, keepdims=True)
    found: Floats = (shares * is_best).sum(axis=1)
    return found


def filled_by_first(scores: Floats, effects: Floats, most: Floats) -> Floats:
    """Return `share_of_top_group` of a top that the group scored highest fills as far as it can, [m].

    Args:
        scores: [m, G] scores of groups.
        effects: [m, G] effects of leaving groups out.
        most: [G] the largest share of the top that each group's items can fill.
    """
    is_first = scores == scores.max(axis=1, keepdims=True)
    return share_of_top_group(is_first / is_first.sum(axis=1, keepdims=True) * most, effects)


def discounted_gain(predicted: Floats, effects: Floats) -> Floats:
    """Return the normalized discounted cumulative gain of the first three groups (NDCG@3) of each query, [m].

    A group's gain is its effect, or 0 where leaving it out lowers the loss (Jarvelin and Kekalainen, 2002). A query
    on which no group has an effect counts 0. Groups of equal score share their gains.

    Args:
        predicted: [m, G] scores of groups.
        effects: [m, G] effects of leaving them out.
    """
    gains = np.maximum(effects, 0)
    depth = min(DEPTH, gains.shape[1])
    discounts = 1 / np.log2(np.arange(depth) + 2)
    best = -np.sort(-gains, axis=1)[:, :depth] @ discounts
    gained = np.stack([_shared(row, score) for row, score in zip(gains, predicted, strict=True)])[:, :depth] @ discounts
    result: Floats = np.divide(gained, best, out=np.zeros_like(gained), where=best > 0)
    return result


def _shared(gains: Floats, scores: Floats) -> Floats:
    """Return gains in the order of falling scores, those of equal scores replaced by their mean, [G]."""
    _, group = np.unique(-scores, return_inverse=True)
    means = np.bincount(group, weights=gains) / np.bincount(group)
    ordered: Floats = means[np.sort(group)]
    return ordered


Measure = Callable[[Floats, Floats], Floats]
MEASURES: dict[str, Measure] = {"top1": top_group, f"ndcg{DEPTH}": discounted_gain, "spearman": rank_correlation}
"""Metric name -> function of ([m, G] scores, [m, G] effects) that gives a value for each query, [m]."""


def expected_by_chance(measure: Measure, effects: Floats) -> Floats:
    """Return the expectation of a metric of scores under a random order of the groups, for each query, [m].

    Args:
        measure: one of `MEASURES`.
        effects: [m, G].
    """
    return measure(np.zeros_like(effects), effects)  # equal scores share what they hit, and correlate with nothing


def seed_agreement(measure: Measure, effects: Floats) -> float | None:
    """Return what the effects of one training seed reach as scores of another's, mean over ordered pairs of seeds.

    None for a single seed.

    Args:
        measure: one of `MEASURES`.
        effects: [S, m, G].
    """
    pairs = list(itertools.permutations(range(len(effects)), 2))
    if not pairs:
        return None
    return float(np.mean([measure(effects[a], effects[b]).mean() for a, b in pairs]))


def rise(values: Floats) -> Floats:
    """Return how much a quantity rises from the models that saw all items to those without each group, [S, m, G].

    Args:
        values: [1 + G, S, m] the quantity, of the models that saw all items first.
    """
    risen: Floats = (values[1:] - values[0]).transpose(1, 2, 0)
    return risen


def model_parts(measure: Measure, predicted: Floats, values: Floats) -> Floats:
    """Return what each model adds to the error of a metric's mean over queries, [(1 + G) S], as `TrainingNoise.parts`.

    Each model is left out once (the jackknife), in favor of those of the same items with other training seeds. The
    errors of models of other items are independent, and their squares add up.

    Args:
        measure: of what is predicted and of effects.
        predicted: [m, G].
        values: [1 + G, S, m] as for `rise`, with S of at least 2.
    """
    trained, seeds = values.shape[:2]
    means = values.mean(axis=1, keepdims=True)
    without = np.empty((trained, seeds))
    for model, left_out in np.ndindex(trained, seeds):
        changed = means.copy()
        changed[model, 0] = np.delete(values[model], left_out, axis=0).mean(axis=0)
        without[model, left_out] = measure(predicted, rise(changed)[0]).mean()
    parts: Floats = (without - without.mean(axis=1, keepdims=True)) * np.sqrt((seeds - 1) / seeds)
    return parts.ravel()


def interval(measure: Measure, predicted: Floats, effects: Floats, seed: int) -> tuple[float, float] | None:
    """Return the 95% bootstrap interval of a metric's mean over both queries and training seeds.

    None for one query, or for one seed, which says nothing of the noise of training.

    Queries and seeds are drawn anew independently (Owen, "The pigeonhole bootstrap", 2007), so the interval covers the
    noise of training, somewhat wider than it need be.

    Args:
        measure: of what is predicted and of effects.
        predicted: [m, G].
        effects: [S, m, G].
        seed: of the resampling.
    """
    seeds, queries = effects.shape[:2]
    if queries < 2 or seeds < 2:
        return None
    rng = np.random.default_rng(seed)
    values: dict[tuple[int, ...], Floats] = {}  # of the drawn sets of seeds alone: there are very many of many seeds
    means = []
    for _ in range(RESAMPLES):
        drawn = tuple(np.sort(rng.integers(0, seeds, seeds)).tolist())
        if drawn not in values:
            values[drawn] = measure(predicted, effects[list(drawn)].mean(axis=0))
        means.append(values[drawn][rng.integers(0, queries, queries)].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
