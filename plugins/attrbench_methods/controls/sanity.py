"""Control methods: DMin with shuffled training gradients, at untrained weights, and at those of another seed."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.denoiser import OTHER_SEED
from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.contracts.seeds import Seed
from attrbench.features.gradient_rows import GradientRows
from attrbench.search.exact import ExactSearch
from attrbench_methods.controls.keyed_draws import key_numbers
from attrbench_methods.gradient_options import SketchedGradientOptions


class SanityOptions(SketchedGradientOptions):
    """Options of the control methods `untrained` and `other-seed`: those of the gradients and sketches of `dmin`."""

    v: int = Field(4096, ge=1)
    """Length of the sketch of one timestep's gradient."""
    normalize: bool = True
    """Whether each timestep's whole gradient is scaled to unit norm before it is sketched."""

    def rows(self, checkpoint: str) -> GradientRows:
        """Return the feature that declares `dmin`'s sketched gradients of each item, at a named checkpoint."""
        return GradientRows(source=self.source(checkpoint=checkpoint), sketch=self.sketching())


class ShuffledOptions(SanityOptions):
    """Options of the control method `shuffled`: `dmin`'s gradient options and the number of the shuffle."""

    draw: Seed = 0
    """Number of the shuffle; the shuffle is a function of (the run's seed, draw, the items' contents)."""


class Shuffled(Method[ShuffledOptions]):
    """Control method: DMin's scores, assigned to the training items in shuffled order and so without meaning.

    A metric on which this beats chance rewards something else than attribution.
    """

    name = "shuffled"
    version = 3
    summary = "sanity: DMin with the training gradients shuffled among the items"
    citation = "after Adebayo et al. 2018 (arXiv 1810.03292)"
    Options = ShuffledOptions
    control = True

    def features(self) -> FeatureRequest:
        """Request `dmin`'s sketched gradients of training items and queries, at the final weights."""
        return FeatureRequest.both(self.options.rows("final"))

    def fit(self, train: TrainFeatures, context: Context) -> ShuffledScorer:
        """Return a scorer of `dmin`'s scores, dealt out anew to the training items by the run's seed and their keys.

        Items sorted by key get the scores of the items sorted by random bits, so that their order means nothing.
        """
        rows = self.options.rows("final")
        order = np.empty(train.count, np.int64)
        drawn = key_numbers(train.keys, context.seed, self.options.draw)
        order[np.argsort(np.array(train.keys), kind="stable")] = np.argsort(drawn, kind="stable")
        return ShuffledScorer(ExactSearch(train[rows], rows, self.options.normalize), order)


class ShuffledScorer(ExhaustiveScorer):
    """Scorer whose scores mean nothing: training item i gets DMin's score of another item, order[i] ([n])."""

    def __init__(self, exact: ExactSearch, order: NDArray[np.int64]) -> None:
        self._exact = exact
        self._order = order

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return DMin's [m, n] scores of n training items for m queries, with the n columns shuffled."""
        return self._exact.scores(query)[:, self._order]

    def size(self) -> StateSize:
        """Return the bytes of the sketched gradients and of the shuffle, stored although its seeds would do."""
        return StateSize(rows=self._exact.size().rows, shared=self._order.nbytes)


class Untrained(Method[SanityOptions]):
    """Control method: DMin on the same network with random weights, which shows how far scores go without learning.

    Attributes:
        weights: name of the weights at which gradients are taken.
    """

    name = "untrained"
    version = 2
    summary = "sanity: DMin with the gradients of an untrained network"
    citation = "after Adebayo et al. 2018 (arXiv 1810.03292)"
    Options = SanityOptions
    weights: ClassVar[str] = "untrained"

    def features(self) -> FeatureRequest:
        """Request `dmin`'s sketched gradients of training items and queries, at the control's weights."""
        return FeatureRequest.both(self.options.rows(self.weights))

    def fit(self, train: TrainFeatures, context: Context) -> ExhaustiveScorer:
        """Return a scorer that compares each query's sketched gradient with all training rows; nothing is fitted."""
        rows = self.options.rows(self.weights)
        return ExactSearch(train[rows], rows, self.options.normalize)


class OtherSeed(Untrained):
    """Control method: DMin on a model of the same training with another seed, which did not draw the queries.

    It saw the same items and knows as much. What `dmin` finds and this does not hangs on the very model; what both find
    would be found for a picture of any model of these data.
    """

    name = "other-seed"
    version = 1
    summary = "sanity: DMin with the gradients of a model that was trained with another seed"
    weights = OTHER_SEED
