"""Rows that a method worth its cost must beat: DMin with its gradients shuffled, and of an untrained network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from attrbench.contracts.feature import FeaturePlan, GradientRows, QueryFeatures, Rows, Sketch, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench_methods.gradient_options import GradientOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class SanityOptions(GradientOptions):
    """Options that both have in common with `dmin`."""

    v: int = Field(4096, ge=1)
    """Length of the sketch of one timestep's gradient."""
    seed: int = Field(42, ge=0)
    """Seed of the sketch."""

    def plan(self, checkpoint: str) -> FeaturePlan:
        """`dmin`'s rows."""
        sketch = Sketch(length=self.v, seed=self.seed)
        rows = GradientRows(source=self.source(checkpoint=checkpoint), sketch=sketch)
        return FeaturePlan(train=rows, query=rows)


class ShuffledOptions(SanityOptions):
    """Options of `shuffled`."""

    draw: int = Field(0, ge=0)
    """Which shuffle; it is a function of (the run's seed, draw)."""


class Shuffled(Method[ShuffledOptions]):
    """DMin's scores, dealt out to the training items anew: equal numbers, and nothing that they could mean.

    A metric on which this beats chance rewards something else than attribution.
    """

    name = "shuffled"
    summary = "sanity: DMin with the training gradients shuffled among the items"
    citation = "after Adebayo et al. 2018 (arXiv 1810.03292)"
    Options = ShuffledOptions
    control = True

    def features(self) -> FeaturePlan:
        """`dmin`'s rows."""
        return self.options.plan("final")

    def fit(self, train: TrainFeatures, context: Context) -> ShuffledScorer:
        """Draws the shuffle."""
        import numpy as np

        assert train.rows is not None
        order = np.random.default_rng([context.seed, self.options.draw]).permutation(train.count)
        return ShuffledScorer(train.rows, order)


class ShuffledScorer(ExhaustiveScorer):
    """Item i gets the score of item order[i]."""

    def __init__(self, rows: Rows, order: NDArray[np.int64]) -> None:
        from attrbench.search.exact import ExactSearch

        self._exact = ExactSearch(rows, normalize=True)
        self._order = order

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """[m, n] scores."""
        return self._exact.scores(query)[:, self._order]

    def size(self) -> StateSize:
        """The rows; the shuffle follows from its seeds, but it is kept."""
        return StateSize(rows=self._exact.size().rows, shared=self._order.nbytes)


class Untrained(Method[SanityOptions]):
    """DMin on the same network with weights drawn anew: what the architecture and the pixels give without learning."""

    name = "untrained"
    summary = "sanity: DMin with the gradients of an untrained network"
    citation = "after Adebayo et al. 2018 (arXiv 1810.03292)"
    Options = SanityOptions

    def features(self) -> FeaturePlan:
        """`dmin`'s rows at untrained weights."""
        return self.options.plan("untrained")

    def fit(self, train: TrainFeatures, context: Context) -> ExhaustiveScorer:
        """There is nothing to fit."""
        from attrbench.search.exact import ExactSearch

        assert train.rows is not None
        return ExactSearch(train.rows, normalize=True)
