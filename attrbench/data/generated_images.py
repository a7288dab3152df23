"""Pictures that a model draws from prompts and seeds: drawn once, kept."""

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
"""Pictures drawn at once and kept in one file; of large models `Denoiser.generate` draws fewer at a time."""


def kept_generations(
    denoiser: Denoiser, prompts: Sequence[str], seeds: Sequence[int], cache: Path, batch: int = BATCH
) -> NDArray[np.uint8]:
    """One picture for each prompt and seed: [m, H, W, C] uint8.

    Batches that are there, from this run or an earlier one, are read; the others are drawn and kept one by one, so
    that a run that is cut off goes on where it stopped. A picture depends on its own prompt and seed alone, so batches
    are no part of the result.

    Args:
        denoiser: the model.
        prompts: m of them, empty for unconditional models.
        seeds: m of them.
        cache: the pictures lie in its folder `queries`.
        batch: pictures drawn at once.

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
