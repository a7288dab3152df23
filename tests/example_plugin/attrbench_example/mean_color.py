"""The method `mean-color`: items whose mean color is near that of the query count most."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options
from attrbench.features.images import Images


class MeanColorOptions(Options):
    """Options of `mean-color`."""

    distance: Literal["l1", "l2"] = "l2"
    """How the distance of two colors is taken."""


class MeanColor(Method[MeanColorOptions]):
    """tau(q, i) = -|mean(q) - mean(i)|, where mean(x) holds the mean intensity of each channel, in [0, 1]."""

    name = "mean-color"
    summary = "negative distance of the images' mean colors"
    citation = "none; an example"
    Options = MeanColorOptions

    def features(self) -> FeatureRequest:
        """The images."""
        return FeatureRequest.both(Images())

    def fit(self, train: TrainFeatures, context: Context) -> MeanColorScorer:
        """Keep the mean color of each training image."""
        return MeanColorScorer(mean_colors(train[Images()]), self.options.distance)


class MeanColorScorer(ExhaustiveScorer):
    """Scores by the distance of colors; `train` is [n, C]."""

    def __init__(self, train: NDArray[np.float32], distance: str) -> None:
        self._train = train
        self._distance = distance

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] scores, at most 0."""
        difference = mean_colors(query[Images()])[:, None, :] - self._train[None, :, :]
        if self._distance == "l1":
            return -np.abs(difference).sum(axis=2)
        return -np.sqrt((difference**2).sum(axis=2))

    def size(self) -> StateSize:
        """Return the bytes of a color an item."""
        return StateSize(rows=self._train.nbytes)


def mean_colors(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the [n, C] means in [0, 1] of [n, H, W, C] images."""
    return images.mean(axis=(1, 2), dtype=np.float64).astype(np.float32) / 255
