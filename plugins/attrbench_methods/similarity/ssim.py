"""Method `ssim`: structural similarity of query image and training image (Wang et al. 2004, IEEE TIP 13(4))."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from skimage.filters import gaussian
from torch import Tensor

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options
from attrbench.errors import UsageError
from attrbench.features.images import Images

SMALL_IMAGE = 16
"""Pixels a side up to which the window is uniform and 7x7."""
C1, C2 = 0.01**2, 0.03**2
"""Constants of Wang et al. that keep both fractions finite, for values in [0, 1]."""
BLOCK_VALUES = 1 << 18
"""Values of training images that are compared at once, so that what is computed of them stays in the cache."""


class SSIMOptions(Options):
    """Options of the method `ssim`: none, since its settings are those of Wang et al. 2004."""


class SSIM(Method[SSIMOptions]):
    """Attribution by the structural similarity (SSIM) of query image and training image, without gradients.

    tau = mean SSIM over valid windows and channels.
    The window is Gaussian, 11x11 with sigma 1.5; K1 = .01, K2 = .03, data range 1.
    For images of at most 16 pixels a side the window is uniform and 7x7. DMin cites SSIM without settings; these are
    those of Wang et al.
    """

    name = "ssim"
    summary = "structural similarity of the images"
    citation = "Wang et al. 2004, IEEE TIP 13(4)"
    version = 2
    Options = SSIMOptions
    self_first = True

    def features(self) -> FeatureRequest:
        """Request the images of training items and queries; SSIM needs no gradients."""
        return FeatureRequest.both(Images())

    def fit(self, train: TrainFeatures, context: Context) -> SSIMScorer:
        """Return a scorer that computes SSIM with all training images; nothing is learned."""
        return SSIMScorer(train[Images()])


@dataclass(frozen=True)
class _Moments:
    """Images with mean and variance of their windows, float64: a variance is a difference of two near numbers.

    Attributes:
        values: [b, C, H, W] in [0, 1].
        mean: [b, C, w, h], of the values in each window that lies wholly inside.
        variance: [b, C, w, h].
    """

    values: Tensor
    mean: Tensor
    variance: Tensor


class SSIMScorer(ExhaustiveScorer):
    """Scorer by SSIM over windows that lie wholly inside the images.

    The means of all windows of many images are two matrix products with the windows' weights, one along each side.
    """

    def __init__(self, images: NDArray[np.uint8]) -> None:
        height, width = images.shape[1:3]
        radius = 5 if min(height, width) > SMALL_IMAGE else 3
        if min(height, width) <= 2 * radius:
            raise UsageError(f"method ssim: images of {min(height, width)} pixels are smaller than its window")
        self._of_rows, self._of_columns = _window_weights(height, radius), _window_weights(width, radius)
        self._images = images

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] mean SSIM of m query images and n training images, at most 1."""
        queries = [self._moments(image[None]) for image in query[Images()]]
        size = max(1, BLOCK_VALUES // self._images[0].size)
        blocks = []
        for first in range(0, len(self._images), size):
            train = self._moments(self._images[first : first + size])
            blocks.append(torch.stack([self._mean_ssim(of, train) for of in queries]))
        return torch.cat(blocks, dim=1).float().numpy()

    def _mean_ssim(self, query: _Moments, train: _Moments) -> Tensor:
        """Return the [b] mean SSIM of one query with b training images, over windows and channels."""
        product = query.mean * train.mean
        covariance = self._window_means(query.values * train.values).sub_(product)
        squares = train.mean.square().add_(query.mean.square())
        above = product.mul_(2).add_(C1).mul_(covariance.mul_(2).add_(C2))
        below = squares.add_(C1).mul_((query.variance + train.variance).add_(C2))
        return above.div_(below).mean(dim=(1, 2, 3))

    def _moments(self, images: NDArray[np.uint8]) -> _Moments:
        """Return images [b, H, W, C] with the mean and variance of each window."""
        values = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).double().div_(255)
        mean = self._window_means(values)
        return _Moments(values, mean, self._window_means(values.square()).sub_(mean.square()))

    def _window_means(self, values: Tensor) -> Tensor:
        """Return the weighted mean of each window of [b, C, H, W] values, [b, C, w, h]: turned, which no sum sees."""
        return (values @ self._of_columns.T).transpose(2, 3) @ self._of_rows.T

    def size(self) -> StateSize:
        """Return the bytes of the stored training images, one byte per value."""
        return StateSize(rows=self._images.nbytes)


def _window_weights(side: int, radius: int) -> Tensor:
    """Return the weights of each window along one side, [side - 2 radius, side] float64.

    They are those of scikit-image's SSIM: Gaussian with sigma 1.5 for a radius of 5, else uniform.
    """
    places = np.eye(side)
    if radius == 5:
        weights = gaussian(places, sigma=(1.5, 0), truncate=3.5, mode="constant")
    else:
        weights = uniform_filter1d(places, 2 * radius + 1, axis=0, mode="constant")
    return torch.from_numpy(weights[radius:-radius].copy())
