"""Random: uniform scores, the floor that every other method must clear."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options


class RandomOptions(Options):
    """Options of `random`."""

    draw: int = Field(0, ge=0)
    """Number of the draw; the scores are a function of (the run's seed, draw, query)."""


class Random(Method[RandomOptions]):
    """Uniform scores, one seeded draw a query. The expected value of each metric is reported beside it anyway."""

    name = "random"
    summary = "uniform random scores: the floor"
    Options = RandomOptions
    control = True

    def features(self) -> FeatureRequest:
        """Return the empty request."""
        return FeatureRequest()

    def fit(self, train: TrainFeatures, context: Context) -> RandomScorer:
        """Return the scorer, which keeps the seeds alone."""
        return RandomScorer(train.count, (context.seed, self.options.draw))


class RandomScorer(ExhaustiveScorer):
    """Uniform scores, a function of the seeds and the query's id."""

    def __init__(self, count: int, seed: tuple[int, int]) -> None:
        self._count = count
        self._seed = seed

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return [m, n] uniform numbers in [0, 1)."""
        return np.stack(
            [np.random.default_rng([*self._seed, int(id_)]).random(self._count, np.float32) for id_ in query.ids]
        )

    def size(self) -> StateSize:
        """Return the bytes of the two seeds."""
        return StateSize(shared=16)
