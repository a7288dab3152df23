"""The linear datamodeling score (LDS), its noise ceiling, and its interval over queries and subsets.

For a query q, subsets S_j of the training set (j = 1 .. J), models trained on each with several seeds, and scores
tau(q, i): LDS(q) is Spearman's rank correlation, over j, of -L_j(q), the negated loss of q averaged over seeds, with
g_j(q) = sum of tau(q, i) over i in S_j (Park et al., "TRAK", 2023, eq. 4; with losses of diffusion models, Zheng et
al., "D-TRAK", 2024, section 4).

Part of it may be earned without a look at the query, by scores that say which items are good for all queries. What is
left when that is taken away is the lead of a query's own losses over those of the others, a control of ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t

from attrbench.errors import AttrbenchError

Floats = NDArray[np.float64]
Measure = Callable[[Floats, Floats], Floats]
"""Takes predictions and effects of each query, [m, J] each, and gives a number a query, [m]."""


def predictions(scores: NDArray[np.floating], subsets: NDArray[np.bool_]) -> Floats:
    """Return the sum of a method's scores over each training subset, [m, J]: its prediction of the negated loss.

    Raises:
        AttrbenchError: where a score is not finite.
    """
    sums: Floats = _checked(scores, "scores", len(subsets)) @ subsets.astype(np.float64).T
    return sums


def top_counts(ranked: NDArray[np.integer], subsets: NDArray[np.bool_]) -> Floats:
    """Return how many of the items that a method ranks for a query are in each subset, [m, J].

    It predicts the negated loss from the top of a ranking alone, for methods that score no other items.

    Args:
        ranked: [m, k] items, -1 where a search found fewer.
        subsets: [J, n] whether an item is in a subset.

    Raises:
        AttrbenchError: for fewer than two subsets.
    """
    _check_subsets(len(subsets))
    held = subsets.T[ranked] & (ranked >= 0)[..., None]  # [m, k, J]
    counts: Floats = held.sum(axis=1).astype(np.float64)
    return counts


def _check_subsets(count: int) -> None:
    if count < 2:
        raise AttrbenchError(f"the linear datamodeling score needs at least two subsets, not {count}")


def _checked(values: NDArray[np.floating], name: str, subsets: int) -> Floats:
    _check_subsets(subsets)
    if not np.isfinite(values).all():
        query = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise AttrbenchError(f"linear datamodeling score: the {name} of query {query} are not finite")
    return values.astype(np.float64)


def rank_correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """Return Spearman's rank correlation of matching rows of two [m, J] arrays, [m]; 0 for constant rows.

    Ties have their mean rank.
    """
    x, y = _centered_ranks(a), _centered_ranks(b)
    return _ratio((x * y).sum(axis=1), np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1)))


def lead_over_others(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """Return Spearman's correlation of matching rows, less the mean of a row's with all other rows of the second, [m].

    Rows of `a` that are all alike, as those of scores that do not look at the query, have 0 on average.

    Args:
        a: [m, J] predictions, with m of at least 2.
        b: [m, J] what they are compared with.
    """
    x, y = _centered_ranks(a), _centered_ranks(b)
    every = _ratio(x @ y.T, np.sqrt(np.outer((x * x).sum(axis=1), (y * y).sum(axis=1))))
    own = np.diag(every)
    lead: Floats = own - (every.sum(axis=1) - own) / (len(every) - 1)
    return lead


def _centered_ranks(values: NDArray[np.floating]) -> Floats:
    ranks: Floats = rankdata(values, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    return ranks


def _ratio(products: Floats, scale: Floats) -> Floats:
    """Return products over their scale; 0 where that is 0, as for constant rows."""
    ratio: Floats = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return ratio


def balanced_losses(losses: NDArray[np.floating]) -> Floats:
    """Return the mean over timesteps of losses in units of each timestep's spread over the models, [J, S, m].

    A plain mean is decided by the timesteps whose losses differ most between models. Near the clean picture, where the
    noise can hardly be told, that is the noise of training. Where no model differs from another a timestep counts as 0.

    Args:
        losses: [J, S, m, T].
    """
    values = losses.astype(np.float64)
    spread = values.std(axis=(0, 1))
    balanced: Floats = _ratio(values - values.mean(axis=(0, 1)), np.broadcast_to(spread, values.shape)).mean(axis=3)
    return balanced


@dataclass(frozen=True)
class NoiseCeiling:
    """The highest LDS that any method could reach, given the noise of training.

    Attributes:
        single: r, the mean over queries of Spearman's correlation of one training seed's losses with another's, mean
            over all pairs of seeds: the reliability of one seed. None for a single seed.
        corrected: the correlation of a perfect predictor of the expected loss with the mean of the S seeds' losses:
            the square root of that mean's reliability, R = S r / (1 + (S - 1) r) (Spearman, 1910; Brown, 1910). None
            for a single seed; 0 where r is not positive.
    """

    single: float | None
    corrected: float | None


def noise_ceiling(losses: NDArray[np.floating]) -> NoiseCeiling:
    """Estimate the highest reachable LDS from the agreement of the losses of several training seeds.

    Both formulae are exact for linear correlations of independent noise of equal variance; for ranks they hold to
    within a few hundredths (tests/metrics/test_lds.py). r is averaged over queries before the root is taken, as single
    r are too noisy; as the root is concave that lies somewhat above the mean of the queries' own ceilings.

    Args:
        losses: [J, S, m].
    """
    seeds = losses.shape[1]
    if seeds < 2:
        return NoiseCeiling(None, None)
    single = _agreement_of_seeds(losses, rank_correlation)
    reliability = seeds * single / (1 + (seeds - 1) * single) if single > 0 else 0.0
    return NoiseCeiling(single, math.sqrt(reliability))


def lead_ceiling(losses: NDArray[np.floating]) -> float | None:
    """Estimate the lead over others of a perfect predictor of the expected losses.

    No bound: scores of what is a query's own alone, without what all queries share, can lead by more.

    It is the noise ceiling times the share of r that is ahead of the correlation of one query's losses under one seed
    with another query's under another seed.

    Args:
        losses: [J, S, m].

    Returns:
        The lead; None for a single training seed or query, 0 where r is not positive.
    """
    ceiling = noise_ceiling(losses)
    if ceiling.single is None or ceiling.corrected is None or losses.shape[2] < 2:
        return None
    lead = _agreement_of_seeds(losses, lead_over_others)
    return ceiling.corrected * lead / ceiling.single if ceiling.single > 0 else 0.0


def _agreement_of_seeds(losses: NDArray[np.floating], measure: Measure) -> float:
    """Return the mean over queries of a measure of one seed's losses and another's, mean over all pairs of seeds."""
    by_seed = losses.astype(np.float64).transpose(1, 2, 0)  # [S, m, J]
    return float(np.mean([measure(a, b).mean() for a, b in itertools.combinations(by_seed, 2)]))


@dataclass(frozen=True)
class MeanScore:
    """The mean of a score over queries, with its uncertainty.

    Attributes:
        value: the mean.
        per_query: [m] what it is the mean of.
        low, high: its 95% interval over queries and subsets; None for fewer than two queries or four subsets.
        subset_error: the part of its standard error that other subsets (and models) would bring; None likewise.
        freedom: degrees of freedom of the errors.
        subset_parts: [J] what each subset adds to that part, as `TrainingNoise.parts`; empty likewise.
    """

    value: float
    per_query: Floats
    low: float | None
    high: float | None
    subset_error: float | None
    freedom: int
    subset_parts: Floats


def mean_score(predicted: Floats, losses: Floats, measure: Measure = rank_correlation) -> MeanScore:
    """Return the mean score over queries with a 95% interval over both queries and training subsets (jackknife).

    The queries of a task share their subset models, so that an interval over queries alone is far too narrow. Here
    each subset is left out once (the jackknife, which unlike a bootstrap repeats no subset and makes no ties), which
    gives pseudo-values P(q, j) = J s(q) - (J - 1) s(q without j), s(q) being the LDS or another score. Their table has
    two random factors, and the variance of its mean is
    [MS_rest + (MS_queries - MS_rest)+ + (MS_subsets - MS_rest)+] / (m J) with the mean squares of the two-way layout
    (Searle et al., "Variance Components", 1992, chapter 4). The interval is Student's with J - 1 degrees of freedom.

    The pseudo-values' means over queries are kept for each subset, so that two methods can be compared on the same
    subsets: what a subset does to both of them alike is no error of their difference.

    Args:
        predicted: [m, J] sums of scores.
        losses: [m, J] mean losses over training seeds.
        measure: the score of each query by its predictions and negated losses.

    Raises:
        AttrbenchError: where a loss is not finite, or there are fewer than two subsets.
    """
    effects = -_checked(losses, "losses", losses.shape[1])
    whole = measure(predicted, effects)
    queries, subsets = predicted.shape
    value = float(whole.mean())
    if queries < 2 or subsets < 4:
        return MeanScore(value, whole, None, None, None, max(1, subsets - 1), np.zeros(0))
    tables = (predicted, effects)
    without = np.stack([measure(*(np.delete(x, j, axis=1) for x in tables)) for j in range(subsets)], axis=1)
    pseudo = subsets * whole[:, None] - (subsets - 1) * without
    of_query, of_subset, middle = pseudo.mean(1, keepdims=True), pseudo.mean(0, keepdims=True), pseudo.mean()
    rest = float(np.square(pseudo - of_query - of_subset + middle).sum()) / ((queries - 1) * (subsets - 1))
    by_query = subsets * float(np.square(of_query - middle).sum()) / (queries - 1)
    by_subset = queries * float(np.square(of_subset - middle).sum()) / (subsets - 1)
    total = rest + max(0.0, by_query - rest) + max(0.0, by_subset - rest)
    count, freedom = queries * subsets, subsets - 1
    half = float(t.ppf(0.975, freedom)) * math.sqrt(total / count)
    error = math.sqrt(max(by_subset, rest) / count)
    parts = (of_subset[0] - middle) / math.sqrt(subsets * freedom)
    return MeanScore(value, whole, value - half, value + half, error, freedom, parts)
