"""Image encoders with their preprocessing and weights, and the scorer of `clip`, `embedding` and `latent`."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.nn.functional import interpolate

from attrbench.contracts.feature import QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, StateSize
from attrbench.errors import AttrbenchError, Unavailable, UsageError
from attrbench.features.images import Images
from attrbench.gradients.per_sample import tensor_float_32
from attrbench.store.artifacts import Artifact
from attrbench.store.fingerprint import fingerprint
from attrbench_methods.similarity.image_similarity import Similarity

CODE_VERSION = 1
"""Version of kept embeddings, raised whenever the same encoder gives other ones."""
DISTANCE_NUMBERS = 1 << 22
"""Numbers in one block of differences: 16 MB."""


@dataclass(frozen=True)
class Encoder:
    """Function from images to embedding vectors, with all that identifies it, so that embeddings can be reused.

    Attributes:
        embed: function from a batch of images ([b, H, W, C] uint8) to [b, ...] numbers, each image on its own.
        identity: everything that decides an embedding besides the image: network, weights, preparation of images.
        batch_size: number of images in a batch.
    """

    embed: Callable[[NDArray[np.uint8]], torch.Tensor]
    identity: Mapping[str, object]
    batch_size: int

    def embeddings(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the [n, d] float32 embeddings of n images ([n, H, W, C] uint8), computed batch by batch.

        Raises:
            AttrbenchError: where one is not finite.
        """
        with torch.inference_mode(), tensor_float_32(False):
            batches = [
                self.embed(images[first : first + self.batch_size]).flatten(1).float().cpu().numpy()
                for first in range(0, len(images), self.batch_size)
            ]
        vectors: NDArray[np.float32] = np.concatenate(batches)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise AttrbenchError(f"the embedding of image {int(finite.argmin())} is not finite")
        return vectors


class EmbeddingScorer(ExhaustiveScorer):
    """Scorer by similarity of the query's image embedding to all training embeddings, which are stored.

    A query is embedded when it is scored, so that its time counts.

    Args:
        encoder: encoder of the queries.
        train: [n, d] embeddings of the training images.
        similarity: `cosine`; `l2`, the negative squared distance; or `dot`.
        earlier_seconds: seconds that embedding the training images took in an earlier run, if it was loaded.
    """

    def __init__(
        self, encoder: Encoder, train: NDArray[np.float32], similarity: Similarity, earlier_seconds: float = 0.0
    ) -> None:
        self._encoder = encoder
        self._train = _unit(train) if similarity == "cosine" else train
        self._similarity = similarity
        self._earlier_seconds = earlier_seconds

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] similarities of m query images' embeddings to n training embeddings."""
        vectors = self._encoder.embeddings(query[Images()])
        if self._similarity == "l2":
            return negative_squared_distances(vectors, self._train)
        if self._similarity == "cosine":
            vectors = _unit(vectors)
        dots: NDArray[np.float32] = vectors @ self._train.T
        return dots

    def size(self) -> StateSize:
        """Return the bytes of the stored training embeddings; the encoder's own weights are not counted."""
        return StateSize(rows=self._train.nbytes)

    def build_seconds(self) -> float:
        """Return the seconds that embedding the training images took in an earlier run, 0 if not loaded."""
        return self._earlier_seconds


def fit_embeddings(train: TrainFeatures, context: Context, encoder: Encoder, similarity: Similarity) -> EmbeddingScorer:
    """Return a scorer over embeddings of all training images, which are computed or loaded from an earlier run.

    There is one file for each set of images and encoder.
    """
    images = train[Images()]
    key = fingerprint({"images": context.fingerprint, "encoder": encoder.identity, "code": CODE_VERSION})
    path = context.workspace / f"embeddings-{key[:20]}.safetensors"
    summary = f"{context.workspace.name} embeddings of {len(images):,} images"
    kept = Artifact(path, "embeddings", summary).arrays(lambda: {"embeddings": encoder.embeddings(images)})
    return EmbeddingScorer(encoder, kept.value["embeddings"], similarity, kept.earlier_seconds)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows of a matrix of vectors scaled to unit norm, for cosines; a zero vector stays zero."""
    unit: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def negative_squared_distances(queries: NDArray[np.float32], train: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the [m, n] negative squared distances -|q - i|^2 of query and training vectors as scores.

    By differences: inner products would swap neighbors nearer than rounding.
    """
    scores = np.empty((len(queries), len(train)), np.float32)
    block = max(1, DISTANCE_NUMBERS // train.shape[1])
    for first in range(0, len(train), block):
        rows = train[first : first + block]
        for index, vector in enumerate(queries):
            scores[index, first : first + block] = -np.square(rows - vector).sum(axis=1)
    return scores


# --- what goes into an encoder


@dataclass(frozen=True)
class Preparation:
    """Resizing, cropping and normalization of images for a pretrained network's input.

    Attributes:
        size: height and width of its input.
        mean, std: of each channel, of values in [0, 1].
        interpolation: `bicubic` or `bilinear`, with antialiasing, as Pillow does it.
        fit: `shortest` resizes the shorter side to `size` and crops the center; `squash` resizes both sides.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fit: Literal["shortest", "squash"] = "shortest"

    def identity(self) -> dict[str, object]:
        """Return the preparation's settings by name, as a part of an encoder's identity."""
        return asdict(self)

    def __call__(self, images: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
        """Return normalized [b, 3, height, width] network inputs from [b, H, W, C] uint8 images, gray or RGB."""
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (self.mean, self.std))
        return (self.resized(images, device) / 255 - mean) / std

    def resized(self, images: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
        """Return images resized and cropped to [b, 3, height, width], whole levels in 0 .. 255 as Pillow gives."""
        x = torch.from_numpy(np.array(images)).to(device, torch.float32).permute(0, 3, 1, 2)
        x = x.expand(-1, 3, -1, -1)  # gray becomes RGB; three channels stay
        between = self._between(x.shape[2], x.shape[3])
        for sides in ((x.shape[2], between[1]), between):  # rows, then columns, with 8 bits in between, as Pillow
            if sides != (x.shape[2], x.shape[3]):
                x = interpolate(x, sides, mode=self.interpolation, antialias=True, align_corners=False)
                x = (x + 0.5).floor().clamp(0, 255)
        top, left = (round((whole - part) / 2) for whole, part in zip(between, self.size, strict=True))
        return x[:, :, top : top + self.size[0], left : left + self.size[1]]

    def _between(self, height: int, width: int) -> tuple[int, int]:
        """Return an image's height and width after resizing and before the center crop."""
        if self.fit == "squash":
            return self.size
        scale = max(self.size[0] / height, self.size[1] / width)
        return max(self.size[0], int(height * scale)), max(self.size[1], int(width * scale))


def weights_digest(network: torch.nn.Module) -> str:
    """Return the sha256 of a network's weights (names, types, shapes, values), whatever file they came from."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_weights(method: str, path: Path) -> dict[str, torch.Tensor]:
    """Return a network's weights, by name, from a safetensors or PyTorch file, without unpickling any code.

    Raises:
        UsageError: where the file is neither.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(weights, Mapping):
            raise TypeError(f"it holds a {type(weights).__name__}, not weights by name")
    except Exception as error:  # each library has its own for files that it can't read
        raise UsageError(f"method {method}: cannot read weights from {path}: {first_sentence(error)}") from None
    for wrapper in ("state_dict", "model"):  # training scripts store more than the weights
        weights = weights.get(wrapper, weights)
    return dict(weights)


def check_file(method: str, path: str) -> Path:
    """Return the path of a weights file, or raise a one-line error where there is no such file.

    Raises:
        Unavailable: where there is no such file.
    """
    if not Path(path).is_file():
        raise Unavailable(f"method {method}: there is no weights file {path}")
    return Path(path)


# --- libraries that may be missing


def optional_library(method: str, name: str, extra: str, besides: str = "") -> Any:
    """Return an imported optional library, or raise an error that tells how to install it.

    Args:
        method: name of the method, for the message.
        name: what `import` takes.
        extra: the extra of attrbench that brings it.
        besides: what else the method needs, said where the library is not installed.

    Raises:
        Unavailable: where it is not installed, or does not import: what it needs itself may not fit this machine,
            such as a torchvision for CUDA beside a torch without.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a library that fails on import may do so in any way
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise Unavailable(
                f"method {method}: {name} is not installed: pip install 'attrbench[{extra}]'{besides}"
            ) from None
        raise Unavailable(
            f"method {method}: {name} is installed, but does not import: {type(error).__name__}: {first_line(error)}"
        ) from None


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type's name where the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def first_sentence(error: Exception) -> str:
    """Return the first sentence of an exception's message: PyTorch's second one advises unsafe unpickling."""
    return first_line(error).partition(". ")[0]
