"""Functions that compute the [m, n] score matrix of any scorer and compare two such matrices, for the checks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.method import ExhaustiveScorer, Scorer
from attrbench.evaluation.answers import check_ranking, checked_scores

Scores = NDArray[np.float64]

SMALL = 1e-2
"""Relative difference of scores up to which amplified rounding is likelier than a broken rule."""
OF_ROUNDING = (
    "so small a change is rounding that the method amplifies: solve and add up in float64, raise the damping, or leave"
    " out directions that hold nothing but rounding"
)
"""Advice for such a difference."""
ROUNDING = 1e-4
"""Tolerance, relative to a query's largest score, for scores from equal features. Sums of thousands of float32 products
in another order differ by about 1e-6 of it, and a method may have solved a system of condition number 100."""
ENGINE = 1e-3
"""Tolerance for scores from features of two separate gradient passes. Gradients of other batches differ by some 3e-7
themselves, and what a method inverts may have a condition number of a few thousand. A larger difference is amplified
rounding, such as of a parameter whose gradient is nothing but rounding (the bias of attention keys)."""


def scores_of(scorer: Scorer, query: QueryFeatures, count: int) -> Scores:
    """Return the [m, n] scores of a scorer; for a search, those of the top n that it finds, and -inf elsewhere.

    Raises:
        AttrbenchError: where the scorer returns something of another shape or kind.
    """
    if isinstance(scorer, ExhaustiveScorer):
        return checked_scores(scorer, query, count).astype(np.float64)
    ids, values = ranking = scorer.top(query, count)
    check_ranking(ranking, len(query.ids), count)
    scores = np.full((len(query.ids), count), -np.inf)
    rows, columns = np.nonzero(ids >= 0)
    scores[rows, ids[rows, columns]] = values[rows, columns]
    return scores


@dataclass(frozen=True)
class Difference:
    """The largest difference between two score matrices: its relative size, the entry, and the two scores there.

    Attributes:
        size: the difference relative to the query's largest score; infinite if only one score is finite.
        query, item: indices of the entry.
        found, expected: the two scores of that entry.
    """

    size: float
    query: int
    item: int
    found: float
    expected: float

    def beyond(self, tolerance: float) -> str:
        """Return the difference as text: its size beside what is allowed, the entry and the two scores."""
        size = f"{self.size:.1%}" if self.size > SMALL else f"{self.size:.0e}"
        return (
            f"a score changes by {size} of its query's largest ({tolerance:.0e} is allowed): {self.found:.9g} instead"
            f" of {self.expected:.9g} for query {self.query} and item {self.item}"
        )

    def advice(self, otherwise: str) -> str:
        """Return what to do: the usual advice of a check, or that on rounding where the difference is small."""
        return OF_ROUNDING if self.size <= SMALL else otherwise


def difference(found: Scores, expected: Scores) -> Difference:
    """Return the largest difference between two [m, n] score matrices; equal infinities and NaNs are no difference."""
    equal = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        gaps = np.where(equal, 0.0, np.abs(found - expected)) / scales(expected)[:, None]
    gaps = np.where(np.isnan(gaps), np.inf, gaps)
    query, item = np.unravel_index(int(gaps.argmax()), gaps.shape)
    at = int(query), int(item)
    return Difference(float(gaps[at]), *at, float(found[at]), float(expected[at]))


def scales(scores: Scores) -> NDArray[np.float64]:
    """Return each query's largest absolute score, [m], floored at 1e-6 of the overall largest, to scale differences."""
    sizes = np.abs(np.where(np.isfinite(scores), scores, 0.0)).max(axis=1)
    return np.maximum(sizes, 1e-6 * sizes.max()) if sizes.max() > 0 else np.ones_like(sizes)


@contextmanager
def other_random_numbers(seed: int) -> Iterator[None]:
    """Seed the global random generators of Python, numpy and torch inside the `with` block, then restore them."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
