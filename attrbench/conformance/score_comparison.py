"""Scores of any scorer as one matrix, and how far two such matrices lie apart."""

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
from attrbench.errors import AttrbenchError

Scores = NDArray[np.float64]

ROUNDING = 1e-4
"""Of a query's largest score: what equal features may differ by. Sums of thousands of float32 products in another order
differ by about 1e-6 of it, and a method may have solved a system of condition number 100 in between."""
ENGINE = 1e-3
"""The same where the features come out of two passes of the engine: gradients of other batches differ by some 3e-7
themselves, and what a method inverts may have a condition number of a few thousand. More than that is amplified
rounding: a parameter whose gradient is nothing but rounding (the bias of attention keys), say, given a weight."""


def scores_of(scorer: Scorer, query: QueryFeatures, count: int) -> Scores:
    """[m, n] scores; of a search those that it finds when asked for everything, and -inf for the others.

    Raises:
        AttrbenchError: where the scorer returns something of another shape or kind.
    """
    shape = (len(query.ids), count)
    if isinstance(scorer, ExhaustiveScorer):
        found = np.asarray(scorer.scores(query))
        if found.shape != shape or not np.issubdtype(found.dtype, np.floating):
            raise AttrbenchError(f"scores are {found.dtype} {list(found.shape)} instead of float32 {list(shape)}")
        return found.astype(np.float64)
    ids, values = scorer.top(query, count)
    scores = np.full(shape, -np.inf)
    rows, columns = np.nonzero(ids >= 0)
    scores[rows, ids[rows, columns]] = values[rows, columns]
    return scores


@dataclass(frozen=True)
class Difference:
    """Where two matrices of scores differ most.

    Attributes:
        size: the difference, as a share of the query's largest score; infinite where only one of them is finite.
        query, item: where.
        found, expected: the two scores there.
    """

    size: float
    query: int
    item: int
    found: float
    expected: float

    def __str__(self) -> str:
        return f"{self.found:.6g} instead of {self.expected:.6g} for query {self.query} and item {self.item}"


def difference(found: Scores, expected: Scores) -> Difference:
    """The largest difference. What is not finite in the same way in both is equal."""
    equal = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        gaps = np.where(equal, 0.0, np.abs(found - expected)) / scales(expected)[:, None]
    gaps = np.where(np.isnan(gaps), np.inf, gaps)
    query, item = np.unravel_index(int(gaps.argmax()), gaps.shape)
    at = int(query), int(item)
    return Difference(float(gaps[at]), *at, float(found[at]), float(expected[at]))


def scales(scores: Scores) -> NDArray[np.float64]:
    """[m] the largest score of each query in size; a millionth of the largest of all where a query has next to none."""
    sizes = np.abs(np.where(np.isfinite(scores), scores, 0.0)).max(axis=1)
    return np.maximum(sizes, 1e-6 * sizes.max()) if sizes.max() > 0 else np.ones_like(sizes)


@contextmanager
def other_random_numbers(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's global generators at another state meanwhile, which no result may depend on."""
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
