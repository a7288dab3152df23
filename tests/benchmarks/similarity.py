"""One query of the method `ssim` against scikit-image's SSIM of the same pairs, on all cores."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from attrbench.contracts.feature import QueryFeatures
from attrbench.features.images import Images
from attrbench_methods.similarity.ssim import SSIMScorer
from tests.benchmarks.timing import Figure, paired

ITEMS, MOSAIC = 2_000, 250
BOUND = "<= 0.4"


def ssim() -> list[Figure]:
    """Pictures of 28 pixels and one channel, and of 32 pixels and three."""
    return [_one_query(28, 1), _one_query(32, 3)]


def _one_query(side: int, channels: int) -> Figure:
    images = np.random.default_rng(0).integers(0, 256, (ITEMS + 1, side, side, channels), dtype=np.uint8)
    train, query = images[:-1], images[-1:]
    scorer, features = SSIMScorer(train), QueryFeatures(np.arange(1), {Images(): query})

    def peer() -> NDArray[np.float64]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            blocks = [train[first : first + MOSAIC] for first in range(0, ITEMS, MOSAIC)]
            return np.concatenate(list(pool.map(lambda block: _of_mosaic(query[0], block), blocks)))

    np.testing.assert_allclose(scorer.scores(features)[0], peer(), atol=1e-4)
    title = f"ssim of {ITEMS:,} pictures, {side}x{side}x{channels}"
    return paired(title, lambda: scorer.scores(features), "scikit-image, mosaics", peer, BOUND)


def _of_mosaic(query: NDArray[np.uint8], block: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns the mean SSIM of a picture with each of many, which lie side by side in one picture."""
    tiled, mosaic = (np.concatenate(list(images)).astype(np.float32) / 255 for images in ([query] * len(block), block))
    settings = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0, "channel_axis": 2}
    _, values = structural_similarity(tiled, mosaic, full=True, **settings)
    inside = values.reshape(len(block), *query.shape)[:, 5:-5, 5:-5]
    return inside.mean(axis=(1, 2, 3))
