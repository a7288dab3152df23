"""Method `random`: uniform random scores, the baseline that every attribution method must beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options
from attrbench.contracts.seeds import Seed
from attrbench_methods.controls.keyed_draws import key_numbers, mixed, uniform


class RandomOptions(Options):
    """Options of the method `random`: which of many reproducible random draws the scores come from."""

    draw: Seed = 0
    """Number of the draw; a score is a function of (the run's seed, draw, query, item), both by content."""


class Random(Method[RandomOptions]):
    """Attribution method that scores training items uniformly at random: the chance baseline for all others.

    The expected value of each metric is reported beside it anyway.
    """

    name = "random"
    version = 2
    summary = "uniform random scores: the floor"
    Options = RandomOptions
    control = True

    def features(self) -> FeatureRequest:
        """Return an empty feature request: random scores need neither images nor gradients."""
        return FeatureRequest()

    def fit(self, train: TrainFeatures, context: Context) -> RandomScorer:
        """Return a scorer that draws random scores from the run's seed and the `draw` option; nothing is learned."""
        return RandomScorer(key_numbers(train.keys), (context.seed, self.options.draw))


class RandomScorer(ExhaustiveScorer):
    """Scorer of uniform random numbers, a function of the seeds and of the contents of query and item.

    Args:
        items: [n] random bits of each training item, by its key.
        seed: of the run and of the draw.
    """

    def __init__(self, items: NDArray[np.uint64], seed: tuple[int, int]) -> None:
        self._items = items
        self._seed = seed

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return [m, n] uniform random numbers in [0, 1) as the scores of n training items for m queries."""
        return np.stack([uniform(mixed(self._items ^ number)) for number in key_numbers(query.keys, *self._seed)])

    def size(self) -> StateSize:
        """Return the scorer's memory need: 8 bytes for each item and 16 for its two seeds."""
        return StateSize(rows=self._items.nbytes, shared=16)
