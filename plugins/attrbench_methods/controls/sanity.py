"""Controls that a method worth its cost must beat: DMin with shuffled gradients, and with an untrained network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.features.gradient_rows import GradientRows
from attrbench.search.exact import ExactSearch
from attrbench_methods.gradient_options import SketchedGradientOptions


class SanityOptions(SketchedGradientOptions):
    """Options that `shuffled` and `untrained` have in common with `dmin`."""

    v: int = Field(4096, ge=1)
    """Length of the sketch of one timestep's gradient."""
    normalize: bool = True
    """Whether each timestep's whole gradient is scaled to unit norm before it is sketched."""

    def rows(self, checkpoint: str) -> GradientRows:
        """Return the feature of `dmin`'s rows at the weights of a checkpoint."""
        return GradientRows(source=self.source(checkpoint=checkpoint), sketch=self.sketching())


class ShuffledOptions(SanityOptions):
    """Options of `shuffled`."""

    draw: int = Field(0, ge=0)
    """Number of the shuffle; the shuffle is a function of (the run's seed, draw)."""


class Shuffled(Method[ShuffledOptions]):
    """DMin's scores, assigned to the training items in shuffled order: equal numbers that mean nothing.

    A metric on which this beats chance rewards something else than attribution.
    """

    name = "shuffled"
    summary = "sanity: DMin with the training gradients shuffled among the items"
    citation = "after Adebayo et al. 2018 (arXiv 1810.03292)"
    Options = ShuffledOptions
    control = True

    def features(self) -> FeatureRequest:
        """Return the request of `dmin`'s rows."""
        return FeatureRequest.both(self.options.rows("final"))

    def fit(self, train: TrainFeatures, context: Context) -> ShuffledScorer:
        """Return the scorer with a shuffle drawn from the run's seed."""
        rows = self.options.rows("final")
        order = np.random.default_rng([context.seed, self.options.draw]).permutation(train.count)
        return ShuffledScorer(ExactSearch(train[rows], rows, self.options.normalize), order)


class ShuffledScorer(ExhaustiveScorer):
    """Control whose scores mean nothing: item i gets the true score of another item, order[i] ([n])."""

    def __init__(self, exact: ExactSearch, order: NDArray[np.int64]) -> None:
        self._exact = exact
        self._order = order

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] scores."""
        return self._exact.scores(query)[:, self._order]

    def size(self) -> StateSize:
        """Return the bytes of the rows and of the shuffle, which is kept although its seeds would do."""
        return StateSize(rows=self._exact.size().rows, shared=self._order.nbytes)


class Untrained(Method[SanityOptions]):
    """DMin on the same network with weights drawn anew: what the architecture and the pixels give without learning."""

    name = "untrained"
    summary = "sanity: DMin with the gradients of an untrained network"
    citation = "after Adebayo et al. 2018 (arXiv 1810.03292)"
    Options = SanityOptions

    def features(self) -> FeatureRequest:
        """Return the request of `dmin`'s rows at untrained weights."""
        return FeatureRequest.both(self.options.rows("untrained"))

    def fit(self, train: TrainFeatures, context: Context) -> ExhaustiveScorer:
        """Return the exhaustive search; there is nothing to fit."""
        rows = self.options.rows("untrained")
        return ExactSearch(train[rows], rows, self.options.normalize)
