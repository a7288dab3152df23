"""Base of `pixel`, `latent`, `embedding` and `clip`, which compare vectors of images."""

from __future__ import annotations

from typing import Literal, TypeVar

from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.method import Method
from attrbench.contracts.options import Options
from attrbench.features.images import Images

Similarity = Literal["cosine", "l2", "dot"]


class SimilarityOptions(Options):
    """Options of methods that compare images."""

    similarity: Similarity = "cosine"
    """`cosine`; `l2`, the negative squared distance; or `dot`."""


SimilarityOptionsT = TypeVar("SimilarityOptionsT", bound=SimilarityOptions)


class ImageSimilarity(Method[SimilarityOptionsT]):
    """Method that compares the images alone. By `cosine` and `l2` an image is nearest to itself."""

    def __init__(self, options: SimilarityOptionsT) -> None:
        super().__init__(options)
        self.self_first = None if options.similarity == "dot" else True

    def features(self) -> FeatureRequest:
        """Ask for the images of both sides, and for no gradients."""
        return FeatureRequest.both(Images())
