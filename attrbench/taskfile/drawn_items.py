"""The images that a model generates for prompts and seeds, as the items of a data split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrbench.contracts.task import Items
from attrbench.data.generated_images import kept_generations
from attrbench.data.open_dataset import make_items
from attrbench.taskfile.prompts import Draw

if TYPE_CHECKING:
    from attrbench.contracts.denoiser import Denoiser


def drawn_items(denoiser: Denoiser, draws: Sequence[Draw], cache: Path) -> Items:
    """Return one item for each draw, in order; images are generated once and kept in the cache.

    Raises:
        AttrbenchError: where the cache can't be written to.
    """
    prompts, seeds = [draw.prompt for draw in draws], [draw.seed for draw in draws]
    images = kept_generations(denoiser, prompts, seeds, cache)
    return make_items(images, prompts, [draw.group for draw in draws], [draw.name for draw in draws], seeds=seeds)
