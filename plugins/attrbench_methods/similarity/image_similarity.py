"""What `pixel`, `latent`, `embedding` and `clip` share: vectors of images are compared."""

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
    """A method that looks at the images alone. By `cosine` and `l2` an image is nearest to itself."""

    def __init__(self, options: SimilarityOptionsT) -> None:
        super().__init__(options)
        self.self_first = None if options.similarity == "dot" else True

    def features(self) -> FeatureRequest:
        """The images."""
        return FeatureRequest.both(Images())
