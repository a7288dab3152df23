"""Method `latent`: cosine, Euclidean distance or inner product of the latents of a latent diffusion model."""

from __future__ import annotations

from pydantic import Field

from attrbench.contracts.feature import TrainFeatures
from attrbench.contracts.method import Context
from attrbench.errors import Unavailable
from attrbench_methods.similarity.image_embeddings import EmbeddingScorer, Encoder, fit_embeddings
from attrbench_methods.similarity.image_similarity import ImageSimilarity, SimilarityOptions


class LatentOptions(SimilarityOptions):
    """Options of the method `latent`: cosine, Euclidean distance or inner product, and the encoder's batch size."""

    batch_size: int = Field(16, ge=1)
    """Number of images in a batch."""


class Latent(ImageSimilarity[LatentOptions]):
    """Attribution by the similarity of the autoencoder's latents of query and training image, flattened.

    Latents as the network gets them, as D-TRAK's "raw pixel" baseline of latent models.
    """

    name = "latent"
    summary = "cosine, l2 or dot product of the autoencoder's latents"
    citation = "baseline of D-TRAK (Zheng et al. 2024, arXiv 2311.00500)"
    Options = LatentOptions

    def fit(self, train: TrainFeatures, context: Context) -> EmbeddingScorer:
        """Return a scorer over the autoencoder's latents of all training images, computed or loaded.

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
