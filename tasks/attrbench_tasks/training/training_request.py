"""Subset and seed asked of a training, checked, and the file beside the weights that records them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from attrbench.errors import AttrbenchError, Damaged, UsageError
from attrbench.files import write_atomically
from attrbench.store.artifacts import Artifact
from attrbench_tasks.training.loop import RECIPE_FILE, Recipe
from attrbench_tasks.training.training_state import drop_states, has_state

REQUEST_FILE = "training-request.json"
"""Subset and seed of a training, beside its weights; absent for the training that the task's own weights came from."""

RecipeT = TypeVar("RecipeT", bound=Recipe)


@dataclass(frozen=True)
class TrainingRequest:
    """A request to train on all items or a subset, with a seed, checked to be valid.

    Attributes:
        items: size of the whole training set.
        subset: [k] sorted, distinct indices into it; None for all of it.
        seed: of initial weights, batch order and noise; None for the recipe's own.

    Raises:
        UsageError: for a subset that is empty, unsorted or out of range.
    """

    items: int
    subset: NDArray[np.int64] | None
    seed: int | None

    def __post_init__(self) -> None:
        subset = self.subset
        if subset is None:
            return
        if subset.ndim != 1 or not len(subset) or subset.dtype.kind not in "iu":
            raise UsageError("a subset to train on is a non-empty array of indices into the training set")
        if subset[0] < 0 or subset[-1] >= self.items or (np.diff(subset) <= 0).any():
            raise UsageError(f"a subset to train on has sorted, distinct indices from 0 to {self.items - 1}")

    @property
    def is_original(self) -> bool:
        """Return whether this training makes the weights to ship: on all items, with the recipe's own seed."""
        return self.subset is None and self.seed is None

    @property
    def indices(self) -> NDArray[np.int64]:
        """Return the [k] indices of the items to train on: the subset, or all."""
        return np.arange(self.items) if self.subset is None else self.subset.astype(np.int64)

    def recipe(self, recipe: RecipeT) -> RecipeT:
        """Return the recipe with the requested seed, and without checkpoints unless for the original training.

        The number of steps stays, whatever the size of the subset.
        """
        if self.is_original:
            return recipe
        seed = recipe.seed if self.seed is None else self.seed
        return recipe.model_copy(update={"seed": seed, "checkpoints": ()})

    def begin(self, recipe: Recipe, folder: Path, name: str, report: Callable[[str], None]) -> bool:
        """Record the subset and seed in the folder; return whether this very training is finished there already.

        Args:
            recipe: of the training.
            folder: of the weights.
            name: of what is trained, for the line that says that it has finished.
            report: called with that line.

        Raises:
            AttrbenchError: where another training was begun or finished there, or the folder cannot be written to.
            Damaged: where the record of which one it was is not what was written.
        """
        mark = folder / REQUEST_FILE
        kept = Artifact(mark, "request of a training", f"subset and seed of {name}", "--out")
        left, finished = has_state(folder), (folder / RECIPE_FILE).exists()
        if left or finished:
            if (mark.read_bytes() if mark.exists() else None) != self._mark():
                if kept.is_there() and kept.whole() is None:
                    raise Damaged(f"{mark} is damaged (its checksum differs): delete {folder} and train again")
                raise AttrbenchError(f"{folder} holds a training with another subset or seed: name another folder")
            if left:
                return False
            if _recipe(type(recipe), folder / RECIPE_FILE) != recipe:
                raise AttrbenchError(f"{folder} holds the weights of another recipe: name another folder with --out")
            drop_states(folder)  # a kill may have left the seal of one
            report(f"{name}: {folder} holds the weights of this recipe already")
            return True
        contents = self._mark()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            mark.unlink(missing_ok=True)
            kept.drop()
            if contents is not None:
                write_atomically(mark, contents)
                kept.adopt()  # without the seconds that it took: equal trainings leave equal files
        except OSError as error:
            raise AttrbenchError(f"cannot write to {folder}: {error.strerror}; name another folder") from None
        return False

    def _mark(self) -> bytes | None:
        if self.is_original:
            return None
        subset = None if self.subset is None else self.subset.tolist()
        return json.dumps({"subset": subset, "seed": self.seed}).encode() + b"\n"


def _recipe(kind: type[Recipe], file: Path) -> Recipe:
    try:
        return kind.model_validate_json(file.read_bytes())
    except ValueError:
        raise Damaged(f"{file} is damaged: it is no recipe; delete {file.parent} and train again") from None


def is_original_training(folder: Path) -> bool:
    """Return whether a folder's weights were trained on all items with the recipe's own seed."""
    return not (folder / REQUEST_FILE).exists()
