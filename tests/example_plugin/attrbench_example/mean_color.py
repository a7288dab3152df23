"""The method `mean-color`: images of like mean color come first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options
from attrbench.features.images import Images

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class MeanColor(Method[Any]):
    """tau(q, i) = -|mean(q) - mean(i)|, where mean(x) holds the mean intensity of each channel, in [0, 1]."""

    name = "mean-color"
    summary = "negative distance of the images' mean colors"
    citation = "none; an example"

    class Options(Options):
        """Options of `mean-color`."""

        distance: Literal["l1", "l2"] = "l2"
        """How the distance of two colors is taken."""

    def features(self) -> FeatureRequest:
        """The images."""
        return FeatureRequest.both(Images())

    def fit(self, train: TrainFeatures, context: Context) -> MeanColorScorer:
        """Keeps the mean color of each training image."""
        return MeanColorScorer(mean_colors(train[Images()]), self.options.distance)


class MeanColorScorer(ExhaustiveScorer):
    """Scores by the distance of colors; `train` is [n, C]."""

    def __init__(self, train: NDArray[np.float32], distance: str) -> None:
        self._train = train
        self._distance = distance

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """[m, n] scores, at most 0."""
        import numpy as np

        difference = mean_colors(query[Images()])[:, None, :] - self._train[None, :, :]
        if self._distance == "l1":
            return -np.abs(difference).sum(axis=2)
        return -np.sqrt((difference**2).sum(axis=2))

    def size(self) -> StateSize:
        """A color an item."""
        return StateSize(rows=self._train.nbytes)


def mean_colors(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[n, C] means in [0, 1] of [n, H, W, C] images."""
    import numpy as np

    return images.mean(axis=(1, 2), dtype=np.float64).astype(np.float32) / 255
