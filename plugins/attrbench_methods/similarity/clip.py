"""Method `clip`: similarity of CLIP image embeddings by open_clip's models (Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from attrbench.contracts.feature import TrainFeatures
from attrbench.contracts.method import Context
from attrbench.errors import Unavailable, UsageError, unknown_name
from attrbench.hub import hub_or_cache
from attrbench_methods.similarity.image_embeddings import (
    EmbeddingScorer,
    Encoder,
    Preparation,
    check_file,
    first_line,
    first_sentence,
    fit_embeddings,
    optional_library,
    weights_digest,
)
from attrbench_methods.similarity.image_similarity import ImageSimilarity, SimilarityOptions

WEIGHTS_FILES = (".safetensors", ".pt", ".pth", ".bin", ".npz")


class CLIPOptions(SimilarityOptions):
    """Options of the method `clip`: open_clip's model and weights, cosine or inner product, batch size."""

    model: str = "ViT-B-32"
    """Name of the model in open_clip."""
    pretrained: str = "openai"
    """Tag of the weights in open_clip, or the path of a checkpoint file."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """`cosine` or `dot`; D-TRAK reports both."""
    batch_size: int = Field(64, ge=1)
    """Number of images in a batch."""


class CLIP(ImageSimilarity[CLIPOptions]):
    """Attribution by the cosine (or inner product) of the CLIP image embeddings of query and training item.

    tau = cosine of z(q) and z(i), z the projected image embedding (`encode_image`), as D-TRAK's baseline. Text is not
    used. The model computes in float32.
    """

    name = "clip"
    summary = "cosine or dot product of CLIP image embeddings"
    citation = "Radford et al. 2021 (arXiv 2103.00020); baseline of D-TRAK (Zheng et al. 2024, arXiv 2311.00500)"
    Options = CLIPOptions

    def check(self, train_items: int) -> None:
        """Refuse a model or weights tag that open_clip does not have, and a missing weights file or library.

        Raises:
            UsageError: for an unknown model or tag.
            Unavailable: for a missing file or library.
        """
        open_clip = _open_clip()
        model, pretrained = self.options.model, self.options.pretrained
        if model not in open_clip.list_models():
            raise unknown_name("model of method clip", model, open_clip.list_models())
        if self._tag(open_clip) or Path(pretrained).is_file():
            return
        if Path(pretrained).suffix in WEIGHTS_FILES or "/" in pretrained:
            check_file(self.name, pretrained)
        raise unknown_name(f"weights of {model}", pretrained, open_clip.list_pretrained_tags_by_model(model))

    def fit(self, train: TrainFeatures, context: Context) -> EmbeddingScorer:
        """Return a scorer over CLIP embeddings of all training images, computed or loaded from an earlier run."""
        encoder = self._encoder(context.denoiser().device)
        return fit_embeddings(train, context, encoder, self.options.similarity)

    def _tag(self, open_clip: Any) -> dict[str, Any]:
        """Return open_clip's description of the published weights; empty where the weights are a local file."""
        known: dict[str, Any] = open_clip.get_pretrained_cfg(self.options.model, self.options.pretrained)
        return known

    def _encoder(self, device: torch.device) -> Encoder:
        open_clip = _open_clip()
        network = self._network(open_clip, device)
        published = open_clip.get_model_preprocess_cfg(network)
        size = published["size"]  # one number of a ResNet, two of a transformer
        preparation = Preparation(
            size=(size, size) if isinstance(size, int) else tuple(size),
            mean=tuple(published["mean"]),
            std=tuple(published["std"]),
            interpolation=published["interpolation"],
            fit=published["resize_mode"],
        )
        return Encoder(
            embed=lambda images: network.encode_image(preparation(images, device)),
            identity={
                "library": f"open_clip {open_clip.__version__}",
                "model": self.options.model,
                "quick_gelu": self._quick_gelu(open_clip),
                "weights": weights_digest(network.visual),
                "preparation": preparation.identity(),
            },
            batch_size=self.options.batch_size,
        )

    def _quick_gelu(self, open_clip: Any) -> bool:
        """Return whether the weights need OpenAI's fast GELU, since open_clip only warns of a mismatch."""
        return bool(self._tag(open_clip).get("quick_gelu"))

    def _network(self, open_clip: Any, device: torch.device) -> Any:
        """Return the CLIP model with its weights loaded by open_clip, in float32 and eval mode.

        Raises:
            Unavailable: where the weights of a tag can't be loaded.
            UsageError: where a file does not hold weights of the model.
        """
        model, pretrained = self.options.model, self.options.pretrained
        with _quiet_root_logger(), hub_or_cache() as hub_answers:
            try:
                network = open_clip.create_model(
                    model,
                    pretrained=pretrained,
                    device=device,
                    precision="fp32",
                    force_quick_gelu=self._quick_gelu(open_clip),
                    force_preprocess_cfg=self._preprocessing(open_clip),
                    weights_only=True,  # nothing but tensors is ever unpickled
                )
            except Exception as error:  # a missing network, a full disk, a checkpoint of another model
                if not self._tag(open_clip):
                    raise UsageError(
                        f"method clip: {pretrained} holds no weights of {model}: {first_sentence(error)}"
                    ) from None
                why = first_line(error) if hub_answers else "no hub can be reached"
                raise Unavailable(
                    f"method clip: no weights '{pretrained}' for {model} here and {why}: give a local checkpoint with"
                    f" -m clip:model={self._file_model(open_clip)},pretrained=PATH"
                ) from None
        return network.eval()

    def _file_model(self, open_clip: Any) -> str:
        """Return the model name to advise for a local copy of the weights, `-quickgelu` where they need that GELU."""
        model = self.options.model
        quick = f"{model}-quickgelu"
        return quick if self._quick_gelu(open_clip) and quick in open_clip.list_models() else model

    def _preprocessing(self, open_clip: Any) -> dict[str, Any] | None:
        """Return the image preparation for a weights file: that of the model's published weights, if they agree."""
        if self._tag(open_clip):
            return None  # open_clip has it
        names = ("mean", "std", "interpolation", "resize_mode")
        tags = open_clip.list_pretrained_tags_by_model(self.options.model)
        published = [open_clip.get_pretrained_cfg(self.options.model, tag) for tag in tags]
        ways = [{name: cfg[name] for name in names if name in cfg} for cfg in published]
        return ways[0] if ways and all(way == ways[0] for way in ways) else None


def _open_clip() -> Any:
    weights = "; the weights come from the hub, or from a local checkpoint: -m clip:model=NAME,pretrained=PATH"
    return optional_library("clip", "open_clip", "clip", weights)


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Keep open_clip's log messages from leaving a handler on Python's root logger, while its models load."""
    root, nothing = logging.getLogger(), logging.NullHandler()
    root.addHandler(nothing)
    try:
        yield
    finally:
        root.removeHandler(nothing)
