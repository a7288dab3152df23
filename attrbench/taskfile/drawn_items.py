"""The query images that a task's model generates for prompts and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrbench.contracts.task import Items, OpenTask
from attrbench.data.generated_images import Generations
from attrbench.data.open_dataset import make_items
from attrbench.taskfile.prompts import Draw


def generations(opened: OpenTask, draws: Sequence[Draw], cache: Path) -> Generations:
    """Return the cached images of a task's model for prompts and seeds; the model is loaded only to generate."""
    prompts, seeds = [draw.prompt for draw in draws], [draw.seed for draw in draws]
    return Generations(opened.drawing_model, lambda: opened.denoiser, prompts, seeds, cache)


def drawn_items(opened: OpenTask, draws: Sequence[Draw], cache: Path) -> Items:
    """Return the images generated for these prompts and seeds as query items; they are kept in the cache.

    Raises:
        AttrbenchError: where the cache can't be written to.
    """
    drawn = generations(opened, draws, cache)
    groups, names = [draw.group for draw in draws], [draw.name for draw in draws]
    return make_items(drawn.images(), drawn.prompts, groups, names, seeds=drawn.seeds)
