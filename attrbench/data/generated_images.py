"""Generate query images from prompts and seeds, and keep them in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attrbench.store.artifacts import Artifact
from attrbench.store.fingerprint import fingerprint

if TYPE_CHECKING:
    from attrbench.contracts.denoiser import Denoiser  # torch comes with it, and task files are read without

BATCH = 16
"""Images that are generated together and kept in one file; `Denoiser.generate` may split a batch further."""


def kept_generations(
    denoiser: Denoiser, prompts: Sequence[str], seeds: Sequence[int], cache: Path, batch: int = BATCH
) -> NDArray[np.uint8]:
    """Return one generated image for each prompt and seed, [m, H, W, C] uint8, from the cache where possible.

    Batches are generated and kept one after the other, so that an interrupted run resumes. An image depends on its own
    prompt and seed alone, not on its batch.

    Args:
        denoiser: the model.
        prompts: m prompts, empty strings for unconditional models.
        seeds: m seeds of the initial noise.
        cache: cache folder; images are kept in its folder `queries`.
        batch: number of images that are generated together.

    Raises:
        AttrbenchError: where the cache can't be written to.
    """
    pairs = list(zip(prompts, seeds, strict=True))
    parts = [_kept_batch(denoiser, pairs[first : first + batch], cache) for first in range(0, len(pairs), batch)]
    return np.concatenate(parts)


def _kept_batch(denoiser: Denoiser, pairs: Sequence[tuple[str, int]], cache: Path) -> NDArray[np.uint8]:
    key = fingerprint(
        {"model": denoiser.fingerprint, "sampling": dict(denoiser.sampling), "pairs": [list(pair) for pair in pairs]}
    )
    summary = f"{len(pairs)} pictures from seeds {pairs[0][1]} to {pairs[-1][1]}"
    artifact = Artifact(cache / "queries" / f"{key[:20]}.safetensors", "generated pictures", summary)
    prompts, seeds = [prompt for prompt, _ in pairs], [seed for _, seed in pairs]
    images: NDArray[np.uint8] = artifact.arrays(lambda: {"images": denoiser.generate(prompts, seeds)}).value["images"]
    return images
