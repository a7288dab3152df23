"""Generate query images from prompts and seeds, and keep them in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attrbench.store.artifacts import Artifact
from attrbench.store.fingerprint import fingerprint

if TYPE_CHECKING:
    from attrbench.contracts.denoiser import Denoiser  # torch comes with it, and task files are read without
    from attrbench.contracts.model_description import ModelDescription

BATCH = 16
"""Images that are generated together and kept in one file; `Denoiser.generate` may split a batch further."""


@dataclass(frozen=True)
class Generations:
    """The query images that a model generates from prompts and seeds, cached on disk batch by batch.

    An image depends on its own prompt and seed alone, not on its batch. An interrupted run resumes at its batch.

    Attributes:
        model: description of the model.
        denoiser: returns the loaded model; called where a batch is not in the cache.
        prompts: m prompts, empty strings for unconditional models.
        seeds: m seeds of the initial noise.
        cache: cache folder; images are kept in its folder `queries`.
        batch: number of images that are generated together.
    """

    model: ModelDescription
    denoiser: Callable[[], Denoiser]
    prompts: Sequence[str]
    seeds: Sequence[int]
    cache: Path
    batch: int = BATCH

    @property
    def are_kept(self) -> bool:
        """Return whether all generated images are in the cache with valid checksums, so that no model is needed."""
        return all(artifact.found() is not None for artifact, _ in self._batches())

    def images(self) -> NDArray[np.uint8]:
        """Return the generated images, [m, H, W, C] uint8; those that are not in the cache are generated first.

        Raises:
            AttrbenchError: where the cache can't be written to.
        """
        return np.concatenate([artifact.arrays(build).value["images"] for artifact, build in self._batches()])

    def _batches(self) -> Iterator[tuple[Artifact, Callable[[], dict[str, NDArray[Any]]]]]:
        """Yield each batch's file in the cache, with a function that generates the batch's images if it is missing."""
        for first in range(0, len(self.prompts), self.batch):
            part = slice(first, first + self.batch)
            yield self._batch(list(self.prompts[part]), list(self.seeds[part]))

    def _batch(self, prompts: list[str], seeds: list[int]) -> tuple[Artifact, Callable[[], dict[str, NDArray[Any]]]]:
        pairs = [list(pair) for pair in zip(prompts, seeds, strict=True)]
        key = fingerprint({"model": self.model.fingerprint, "sampling": dict(self.model.sampling), "pairs": pairs})
        summary = f"{len(pairs)} pictures from seeds {seeds[0]} to {seeds[-1]}"
        artifact = Artifact(self.cache / "queries" / f"{key[:20]}.safetensors", "generated pictures", summary)
        return artifact, lambda: {"images": self.denoiser().generate(prompts, seeds)}
