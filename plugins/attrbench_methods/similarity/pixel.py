"""Method `pixel`: cosine, Euclidean distance or inner product of the images' raw pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, StateSize
from attrbench.features.images import Images
from attrbench_methods.similarity.image_embeddings import negative_squared_distances
from attrbench_methods.similarity.image_similarity import ImageSimilarity, Similarity, SimilarityOptions

BLOCK_NUMBERS = 1 << 24
"""Numbers in a block of training images: 64 MB."""
KEPT_BYTES = 1 << 31
"""Size up to which the vectors of all training images are kept in memory."""


class PixelOptions(SimilarityOptions):
    """Options of the method `pixel`: cosine, Euclidean distance or inner product."""

    similarity: Similarity = "cosine"
    """`cosine`; `l2`, the negative squared distance; or `dot`, which favors images of high contrast."""


class Pixel(ImageSimilarity[PixelOptions]):
    """Attribution by the similarity of raw pixels, in [-1, 1] and flattened: D-TRAK's "raw pixel" baseline."""

    name = "pixel"
    summary = "cosine, l2 or dot product of the images themselves"
    citation = "baseline of D-TRAK (Zheng et al. 2024, arXiv 2311.00500)"
    Options = PixelOptions

    def fit(self, train: TrainFeatures, context: Context) -> PixelScorer:
        """Return a scorer over the training images' pixels; nothing is learned."""
        return PixelScorer(train[Images()], self.options.similarity)


class PixelScorer(ExhaustiveScorer):
    """Scorer that compares the query's pixels with all training images by matrix products, block by block.

    The images' vectors are kept where they fit into KEPT_BYTES, and computed again for each query otherwise.
    """

    def __init__(self, images: NDArray[np.uint8], similarity: str) -> None:
        self._similarity = similarity
        self._images = images
        size = max(1, BLOCK_NUMBERS // images[0].size)
        self._cuts = [slice(first, first + size) for first in range(0, len(images), size)]
        self._kept = [self._vectors(images[cut]) for cut in self._cuts] if 4 * images.size <= KEPT_BYTES else None

    def _vectors(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        flat = images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1
        if self._similarity == "cosine":
            flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
        return flat

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] similarities of the raw pixels of m query images and n training images."""
        vectors = self._vectors(query[Images()])
        blocks = self._kept or (self._vectors(self._images[cut]) for cut in self._cuts)
        return np.concatenate([self._similarities(vectors, block) for block in blocks], axis=1)

    def _similarities(self, vectors: NDArray[np.float32], train: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._similarity == "l2":
            return negative_squared_distances(vectors, train)
        dots: NDArray[np.float32] = vectors @ train.T
        return dots

    def size(self) -> StateSize:
        """Return the bytes of the training images: 4 per value as float vectors, or 1 where these exceed 2 GiB."""
        return StateSize(rows=self._images.nbytes if self._kept is None else 4 * self._images.size)
