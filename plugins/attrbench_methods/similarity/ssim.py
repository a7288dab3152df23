"""Method `ssim`: structural similarity of query image and training image (Wang et al. 2004, IEEE TIP 13(4))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options
from attrbench.errors import UsageError
from attrbench.features.images import Images

SMALL_IMAGE = 16
"""Pixels a side up to which the window is uniform and 7x7."""
MOSAIC_PIXELS = 1 << 18
"""Pixels of a mosaic."""


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
    Options = SSIMOptions
    self_first = True

    def features(self) -> FeatureRequest:
        """Request the images of training items and queries; SSIM needs no gradients."""
        return FeatureRequest.both(Images())

    def fit(self, train: TrainFeatures, context: Context) -> SSIMScorer:
        """Return a scorer that computes SSIM with all training images; nothing is learned."""
        return SSIMScorer(train[Images()])


class SSIMScorer(ExhaustiveScorer):
    """Scorer by scikit-image's SSIM, which compares many training images per call, side by side in a mosaic.

    Only windows that lie wholly inside one image count, so that neighbors in the mosaic do not matter.
    """

    def __init__(self, images: NDArray[np.uint8]) -> None:
        side = min(images.shape[1:3])
        self._gaussian = side > SMALL_IMAGE
        self._radius = 5 if self._gaussian else 3  # scikit-image's Gaussian of sigma 1.5 reaches 5 pixels
        if side <= 2 * self._radius:
            raise UsageError(f"method ssim: images of {side} pixels are smaller than its window")
        self._images = images

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] mean SSIM of m query images and n training images, at most 1, on all CPU cores."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # scipy's filters let go of the interpreter lock
            columns = list(pool.map(partial(self._block_scores, query[Images()]), self._blocks()))
        return np.concatenate(columns, axis=1)

    def _blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the training images in blocks, each as large as one mosaic (about 262,000 pixels)."""
        height, width = self._images.shape[1:3]
        per_mosaic = max(1, MOSAIC_PIXELS // (height * width))
        for first in range(0, len(self._images), per_mosaic):
            yield self._images[first : first + per_mosaic]

    def _block_scores(self, queries: NDArray[np.uint8], block: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the [m, b] mean SSIM, averaged over channels, of m queries and a block of b training images."""
        scores = np.zeros((len(queries), len(block)), np.float32)
        channels = block.shape[3]
        for channel in range(channels):
            train = np.concatenate(list(block[..., channel]), axis=1)
            for row, image in enumerate(queries):
                tiled = np.tile(image[..., channel], (1, len(block)))
                scores[row] += self._mean_ssim(tiled, train, len(block)) / channels
        return scores

    def _mean_ssim(self, a: NDArray[np.uint8], b: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
        """Return the [count] mean SSIM of a query, tiled in `a`, with each of `count` training images in `b`."""
        r = self._radius
        _, ssim = structural_similarity(
            a.astype(np.float32) / 255,
            b.astype(np.float32) / 255,
            data_range=1.0,
            gaussian_weights=self._gaussian,
            win_size=2 * r + 1,
            use_sample_covariance=False,
            full=True,
        )
        tiles = ssim.reshape(ssim.shape[0], count, -1)[r:-r, :, r:-r]
        mean: NDArray[np.float32] = tiles.mean(axis=(0, 2))
        return mean

    def size(self) -> StateSize:
        """Return the bytes of the stored training images, one byte per value."""
        return StateSize(rows=self._images.nbytes)
