"""Base class of the methods `pixel`, `latent`, `embedding` and `clip`, which compare images as vectors."""

from __future__ import annotations

from typing import Literal, TypeVar

from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.method import Method
from attrbench.contracts.options import Options
from attrbench.features.images import Images

Similarity = Literal["cosine", "l2", "dot"]


class SimilarityOptions(Options):
    """Options of methods that compare image vectors: cosine, Euclidean distance or inner product."""

    similarity: Similarity = "cosine"
    """`cosine`; `l2`, the negative squared distance; or `dot`."""


SimilarityOptionsT = TypeVar("SimilarityOptionsT", bound=SimilarityOptions)


class ImageSimilarity(Method[SimilarityOptionsT]):
    """Base class of attribution methods that compare the images alone, without the diffusion model's gradients.

    By `cosine` and `l2` an image is nearest to itself.
    """

    def __init__(self, options: SimilarityOptionsT) -> None:
        super().__init__(options)
        self.self_first = None if options.similarity == "dot" else True

    def features(self) -> FeatureRequest:
        """Request the images of training items and queries, and no gradients."""
        return FeatureRequest.both(Images())
