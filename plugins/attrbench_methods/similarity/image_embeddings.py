"""What `clip`, `embedding` and `latent` share: encoders, their inputs and weights, kept embeddings, and the scorer."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrbench.contracts.feature import QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, StateSize
from attrbench.errors import AttrbenchError, Unavailable, UsageError
from attrbench.features.images import Images
from attrbench_methods.similarity.image_similarity import Similarity

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

CODE_VERSION = 1
"""Raised whenever the same encoder gives other embeddings than before."""
DISTANCE_NUMBERS = 1 << 22
"""Numbers in one block of differences: 16 MB."""


@dataclass(frozen=True)
class Encoder:
    """What turns images into vectors.

    Attributes:
        embed: one batch: [b, H, W, C] uint8 images to [b, ...] numbers, each image on its own.
        identity: everything that decides an embedding besides the image: network, weights, preparation of images.
        batch_size: images a batch.
    """

    embed: Callable[[NDArray[np.uint8]], torch.Tensor]
    identity: Mapping[str, object]
    batch_size: int

    def embeddings(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[n, d] embeddings of images ([n, H, W, C]), computed in float32.

        Raises:
            AttrbenchError: where one is not finite.
        """
        import numpy as np
        import torch

        from attrbench.gradients.per_sample import tensor_float_32

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
    """Compares embeddings; a query is embedded when it is scored, so that its time counts.

    Args:
        encoder: of the queries.
        train: [n, d] embeddings of the training images.
        similarity: `cosine`; `l2`, the negative squared distance; or `dot`.
        earlier_seconds: what embedding the training images took, where an earlier run did it.
    """

    def __init__(
        self, encoder: Encoder, train: NDArray[np.float32], similarity: Similarity, earlier_seconds: float = 0.0
    ) -> None:
        self._encoder = encoder
        self._train = _unit(train) if similarity == "cosine" else train
        self._similarity = similarity
        self._earlier_seconds = earlier_seconds

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """[m, n] similarities."""
        vectors = self._encoder.embeddings(query[Images()])
        if self._similarity == "l2":
            return negative_squared_distances(vectors, self._train)
        if self._similarity == "cosine":
            vectors = _unit(vectors)
        dots: NDArray[np.float32] = vectors @ self._train.T
        return dots

    def size(self) -> StateSize:
        """The embeddings, four bytes a number. The encoder is not counted, as the diffusion model is not elsewhere."""
        return StateSize(rows=self._train.nbytes)

    def build_seconds(self) -> float:
        """What embedding the training images took, where their embeddings were loaded."""
        return self._earlier_seconds


def fit_embeddings(train: TrainFeatures, context: Context, encoder: Encoder, similarity: Similarity) -> EmbeddingScorer:
    """Embeds the training images, or loads what an earlier run kept: one file for each set of images and encoder."""
    from attrbench.store.artifacts import Artifact
    from attrbench.store.fingerprint import fingerprint

    images = train[Images()]
    key = fingerprint({"images": context.fingerprint, "encoder": encoder.identity, "code": CODE_VERSION})
    path = context.workspace / f"embeddings-{key[:20]}.safetensors"
    summary = f"{context.workspace.name} embeddings of {len(images):,} images"
    kept = Artifact(path, "embeddings", summary).arrays(lambda: {"embeddings": encoder.embeddings(images)})
    return EmbeddingScorer(encoder, kept.value["embeddings"], similarity, kept.earlier_seconds)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of unit norm; a zero vector stays zero."""
    import numpy as np

    unit: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def negative_squared_distances(queries: NDArray[np.float32], train: NDArray[np.float32]) -> NDArray[np.float32]:
    """[m, n] -|q - i|^2 by differences: by inner products, neighbors nearer than rounding would change places."""
    import numpy as np

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
    """How images are made ready for a network.

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
        """For `Encoder.identity`."""
        return asdict(self)

    def __call__(self, images: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
        """[b, 3, *size] inputs from [b, H, W, C] images, gray or RGB."""
        import torch

        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (self.mean, self.std))
        return (self.resized(images, device) / 255 - mean) / std

    def resized(self, images: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
        """[b, 3, *size] in 0 .. 255, rounded to whole levels, as images of 8 bits are."""
        import numpy as np
        import torch
        from torch.nn.functional import interpolate

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
        """Height and width after resizing, before cropping."""
        if self.fit == "squash":
            return self.size
        scale = max(self.size[0] / height, self.size[1] / width)
        return max(self.size[0], int(height * scale)), max(self.size[1], int(width * scale))


def weights_digest(network: torch.nn.Module) -> str:
    """sha256 over the names, shapes and values of a network's weights, whatever file they came from."""
    import torch

    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_weights(method: str, path: Path) -> dict[str, torch.Tensor]:
    """The weights in a safetensors file or a PyTorch file; of the latter nothing but tensors is ever unpickled.

    Raises:
        UsageError: where the file is neither.
    """
    import torch
    from safetensors.torch import load_file

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
    """The path of a weights file.

    Raises:
        Unavailable: where there is no such file.
    """
    if not Path(path).is_file():
        raise Unavailable(f"method {method}: there is no weights file {path}")
    return Path(path)


# --- libraries that may be missing


def optional_library(method: str, name: str, extra: str, besides: str = "") -> Any:
    """The module called `name`.

    Args:
        method: who asks.
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
    """What an error says, without the advice that may follow."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def first_sentence(error: Exception) -> str:
    """What an error says: torch goes on with advice to unpickle the file all the same."""
    return first_line(error).partition(". ")[0]
