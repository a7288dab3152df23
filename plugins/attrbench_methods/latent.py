"""Latent similarity: cosine, Euclidean distance or inner product of the autoencoder's latents (methods-spec M4)."""

from __future__ import annotations

from pydantic import Field

from attrbench.errors import Unavailable
from attrbench.features import FeaturePlan, Images, TrainFeatures
from attrbench.method import Context, Method
from attrbench.options import Options
from attrbench_methods.embeddings import EmbeddingScorer, Encoder, Similarity, fit_embeddings


class LatentOptions(Options):
    """Options of `latent`."""

    similarity: Similarity = "cosine"
    """`cosine`; `l2`, the negative squared distance; or `dot`."""
    batch_size: int = Field(16, ge=1)
    """Images a batch."""


class Latent(Method[LatentOptions]):
    """Similarity of flattened latents as the network gets them, as D-TRAK's "raw pixel" baseline of latent models."""

    name = "latent"
    summary = "cosine, l2 or dot product of the autoencoder's latents"
    citation = "baseline of D-TRAK (Zheng et al. 2024, arXiv 2311.00500)"
    Options = LatentOptions

    def __init__(self, options: LatentOptions) -> None:
        super().__init__(options)
        self.self_first = None if options.similarity == "dot" else True

    def features(self) -> FeaturePlan:
        """The images."""
        return FeaturePlan(train=Images(), query=Images())

    def fit(self, train: TrainFeatures, context: Context) -> EmbeddingScorer:
        """Encodes the training images.

        Raises:
            Unavailable: for models without an autoencoder.
        """
        denoiser = context.denoiser()
        if not denoiser.has_latents:
            raise Unavailable("method latent: this model works on pixels; use pixel")
        encoder = Encoder(
            embed=lambda images: denoiser.encode(images, [""] * len(images), "model").latents,
            identity={"model": denoiser.fingerprint},
            batch_size=self.options.batch_size,
        )
        return fit_embeddings(train, context, encoder, self.options.similarity)
