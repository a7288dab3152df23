"""Method `random`: uniform random scores, the baseline that every attribution method must beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options
from attrbench.contracts.seeds import Seed


class RandomOptions(Options):
    """Options of the method `random`: which of many reproducible random draws the scores come from."""

    draw: Seed = 0
    """Number of the draw; the scores are a function of (the run's seed, draw, query)."""


class Random(Method[RandomOptions]):
    """Attribution method that scores training items uniformly at random: the chance baseline for all others.

    The expected value of each metric is reported beside it anyway.
    """

    name = "random"
    summary = "uniform random scores: the floor"
    Options = RandomOptions
    control = True

    def features(self) -> FeatureRequest:
        """Return an empty feature request: random scores need neither images nor gradients."""
        return FeatureRequest()

    def fit(self, train: TrainFeatures, context: Context) -> RandomScorer:
        """Return a scorer that draws random scores from the run's seed and the `draw` option; nothing is learned."""
        return RandomScorer(train.count, (context.seed, self.options.draw))


class RandomScorer(ExhaustiveScorer):
    """Scorer of uniform random numbers, which are a function of the seeds and the query's id and so reproducible."""

    def __init__(self, count: int, seed: tuple[int, int]) -> None:
        self._count = count
        self._seed = seed

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return [m, n] uniform random numbers in [0, 1) as the scores of n training items for m queries."""
        return np.stack(
            [np.random.default_rng([*self._seed, int(id_)]).random(self._count, np.float32) for id_ in query.ids]
        )

    def size(self) -> StateSize:
        """Return the scorer's memory need: 16 bytes for its two seeds."""
        return StateSize(shared=16)
