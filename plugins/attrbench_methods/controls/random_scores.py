"""Random: the floor that every other method must clear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class RandomOptions(Options):
    """Options of `random`."""

    draw: int = Field(0, ge=0)
    """Which independent draw; the scores are a function of (seed, draw, query)."""


class Random(Method[RandomOptions]):
    """One seeded draw of uniform scores a query. The analytic expectation stands beside every metric anyway."""

    name = "random"
    summary = "uniform random scores: the floor"
    Options = RandomOptions
    control = True

    def features(self) -> FeatureRequest:
        """Nothing is kept."""
        return FeatureRequest()

    def fit(self, train: TrainFeatures, context: Context) -> RandomScorer:
        """Remembers the seed."""
        return RandomScorer(train.count, (context.seed, self.options.draw))


class RandomScorer(ExhaustiveScorer):
    """Uniform scores, a function of the seed and the query's id."""

    def __init__(self, count: int, seed: tuple[int, int]) -> None:
        self._count = count
        self._seed = seed

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """[m, n] uniform numbers in [0, 1)."""
        import numpy as np

        return np.stack(
            [np.random.default_rng([*self._seed, int(id_)]).random(self._count, np.float32) for id_ in query.ids]
        )

    def size(self) -> StateSize:
        """Two seeds."""
        return StateSize(shared=16)
