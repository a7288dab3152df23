"""Pictures that a model draws from prompts and seeds: drawn once, kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from attrbench.errors import AttrbenchError
from attrbench.store.checksums import is_whole, write_sealed
from attrbench.store.fingerprint import fingerprint
from attrbench.store.locks import Claims

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attrbench.contracts.denoiser import Denoiser

log = logging.getLogger("attrbench.queries")

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
    import numpy as np

    pairs = list(zip(prompts, seeds, strict=True))
    parts = [_kept_batch(denoiser, pairs[first : first + batch], cache) for first in range(0, len(pairs), batch)]
    return np.concatenate(parts)


def _kept_batch(denoiser: Denoiser, pairs: Sequence[tuple[str, int]], cache: Path) -> NDArray[np.uint8]:
    from safetensors.numpy import load_file

    key = fingerprint(
        {"model": denoiser.fingerprint, "sampling": dict(denoiser.sampling), "pairs": [list(pair) for pair in pairs]}
    )
    path = cache / "queries" / f"{key[:20]}.safetensors"
    if not is_whole(path):
        with closing(Claims(cache / "claims" / path.stem)) as claims, claims.claim(0, wait=True):
            if not is_whole(path):  # another process may just have drawn them
                return _draw(denoiser, pairs, path)
    kept: NDArray[np.uint8] = load_file(path)["images"]
    return kept


def _draw(denoiser: Denoiser, pairs: Sequence[tuple[str, int]], path: Path) -> NDArray[np.uint8]:
    from safetensors.numpy import save

    if path.exists():
        log.warning("pictures %s are damaged (size or checksum differ): drawing them again", path)
    images = denoiser.generate([prompt for prompt, _ in pairs], [seed for _, seed in pairs])
    try:
        write_sealed(path, save({"images": images}))
    except OSError as error:
        raise AttrbenchError(
            f"cannot write to the cache {path.parent}: {error.strerror}; choose another folder with --cache"
        ) from None
    return images
