"""Rows that a method worth its cost must beat: DMin with its gradients shuffled, and of an untrained network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.gradient_source import Sketch
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.features.gradient_rows import GradientRows
from attrbench.search.exact import ExactSearch
from attrbench_methods.gradient_options import GradientOptions


class SanityOptions(GradientOptions):
    """Options that both have in common with `dmin`."""

    v: int = Field(4096, ge=1)
    """Length of the sketch of one timestep's gradient."""
    seed: int = Field(42, ge=0)
    """Seed of the sketch."""

    def rows(self, checkpoint: str) -> GradientRows:
        """Return `dmin`'s rows at a checkpoint."""
        sketch = Sketch(length=self.v, seed=self.seed)
        return GradientRows(source=self.source(checkpoint=checkpoint), sketch=sketch)


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

    def features(self) -> FeatureRequest:
        """`dmin`'s rows."""
        return FeatureRequest.both(self.options.rows("final"))

    def fit(self, train: TrainFeatures, context: Context) -> ShuffledScorer:
        """Draws the shuffle."""
        rows = self.options.rows("final")
        order = np.random.default_rng([context.seed, self.options.draw]).permutation(train.count)
        return ShuffledScorer(ExactSearch(train[rows], rows, normalize=True), order)


class ShuffledScorer(ExhaustiveScorer):
    """Item i gets the score of item order[i]."""

    def __init__(self, exact: ExactSearch, order: NDArray[np.int64]) -> None:
        self._exact = exact
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

    def features(self) -> FeatureRequest:
        """`dmin`'s rows at untrained weights."""
        return FeatureRequest.both(self.options.rows("untrained"))

    def fit(self, train: TrainFeatures, context: Context) -> ExhaustiveScorer:
        """There is nothing to fit."""
        rows = self.options.rows("untrained")
        return ExactSearch(train[rows], rows, normalize=True)
