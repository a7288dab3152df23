"""Models trained on parts of a training set, and the pictures that they draw: resumable, kept, shared.

What is kept is the pictures, under a name that covers everything that decides them: the images, the removed items, the
recipe with its seed, the seeds of the pictures. Whoever removes the same items finds them. Several processes may work
on one cache: each takes models that no other is at.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from attrbench.store.artifacts import Artifact, cache_errors, write_arrays
from attrbench.store.fingerprint import fingerprint

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from attrbench.contracts.ground_truth import Stage
    from attrbench.contracts.task import Items
    from attrbench.models.families.ddpm import DDPMDenoiser
    from attrbench_tasks.training.train_ddpm import DDPMRecipe

FOLDER = "retrained"
BATCH = 64
"""Pictures drawn at once."""
VERSION = 1
"""Raised whenever the same job gives other pictures."""


class Job(NamedTuple):
    """A model to train.

    Attributes:
        removed: sorted ids of the items that it does not see.
        seed: of its training.
    """

    removed: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Retraining:
    """How models are trained on parts of a training set.

    Attributes:
        train: the whole training set.
        recipe: how each is trained, whatever the size of its part: the steps are the same. Its seed is the job's.
        pictures: how many each draws, from the noise of seeds `first_seed`, `first_seed` + 1, ...
        first_seed: of the pictures.
        cache: where the pictures are kept, in `retrained/`.
        device: where models are trained.
        model: a model trained by the recipe, with its own seed, on all items; None where there is none. Its pictures
            need no training.
        every: steps between two states on disk, from which an interrupted training goes on.
    """

    train: Items
    recipe: DDPMRecipe
    pictures: int
    first_seed: int
    cache: Path
    device: torch.device
    model: DDPMDenoiser | None = None
    every: int = 200

    def complete(self, jobs: Iterable[Job], stage: Stage) -> None:
        """Trains the models whose pictures are missing; those that other processes are at, last."""
        missing = [job for job in dict.fromkeys(jobs) if self._artifact(job).whole() is None]
        if not missing:
            return
        with stage("retraining", sum(self._units(job) for job in missing)) as advance:
            left = [job for job in missing if not self._claimed(job, wait=False, advance=advance)]
            for job in left:
                self._claimed(job, wait=True, advance=advance)

    def drawn(self, job: Job) -> NDArray[np.uint8]:
        """[pictures, H, W, C] what the model drew; `complete` must have seen to it."""
        from safetensors.numpy import load_file

        return load_file(self.path(job))["images"]

    def path(self, job: Job) -> Path:
        """Where the pictures are."""
        whole = self._model_of(job)
        key = fingerprint(
            {
                "version": VERSION,
                "train": self.train.fingerprint,
                "removed": list(job.removed),
                "recipe": self._recipe(job).model_dump(mode="json"),
                "model": None if whole is None else whole.fingerprint,
                "pictures": [self.first_seed, self.pictures],
            }
        )
        return self.cache / FOLDER / f"{key[:20]}.safetensors"

    def _recipe(self, job: Job) -> DDPMRecipe:
        return self.recipe.model_copy(update={"seed": job.seed, "checkpoints": ()})

    def _model_of(self, job: Job) -> DDPMDenoiser | None:
        return self.model if not job.removed and job.seed == self.recipe.seed else None

    def _units(self, job: Job) -> int:
        """Steps of progress: one a state on disk, one for the pictures."""
        return 1 if self._model_of(job) is not None else 1 + -(-self.recipe.steps // self.every)

    def _claimed(self, job: Job, wait: bool, advance: Callable[[], None]) -> bool:
        """Does the job, unless another process is at it and we do not wait for that."""
        artifact = self._artifact(job)
        with artifact.lock(wait) as ours:
            if not ours:
                return False
            done = self._do(job, artifact, advance) if artifact.whole() is None else 0
            for _ in range(self._units(job) - done):
                advance()
            return True

    def _artifact(self, job: Job) -> Artifact:
        summary = f"{self.pictures} of the model without {len(job.removed):,} items, seed {job.seed}"
        return Artifact(self.path(job), "retrained model's pictures", summary)

    def _do(self, job: Job, artifact: Artifact, advance: Callable[[], None]) -> int:
        """Trains and draws; the number of steps of progress that were shown."""
        folder = artifact.path.with_suffix("")
        progress = _Progress(self.every, advance)
        with cache_errors(artifact.path.parent):
            images = self.draw(self._model_of(job) or self._trained(job, folder, progress))
        artifact.write(lambda part: write_arrays(part, {"images": images}))
        shutil.rmtree(folder, ignore_errors=True)
        return progress.shown

    def _trained(self, job: Job, folder: Path, progress: _Progress) -> DDPMDenoiser:
        """The job's model, trained where an earlier call has not finished it."""
        from attrbench.models.families.ddpm import DDPMDenoiser
        from attrbench_tasks.training.train_ddpm import is_trained, train_ddpm

        recipe = self._recipe(job)
        if not is_trained(folder, recipe):
            kept = self._scaled[self._kept(job)]
            train_ddpm(recipe, kept, folder, device=self.device, report=progress, checkpoint_every=self.every)
        return DDPMDenoiser(folder, self.device)

    def _kept(self, job: Job) -> NDArray[np.int64]:
        import numpy as np

        return np.setdiff1d(np.arange(len(self.train)), np.array(job.removed, np.int64))

    @cached_property
    def _scaled(self) -> torch.Tensor:
        """[n, C, H, W] the training set in [-1, 1]."""
        from attrbench_tasks.training.train_ddpm import scaled

        return scaled(self.train.images)

    def draw(self, denoiser: DDPMDenoiser) -> NDArray[np.uint8]:
        """[pictures, H, W, C] of a model, from the noise that all of them start from."""
        return draw(denoiser, range(self.first_seed, self.first_seed + self.pictures))


def draw(denoiser: DDPMDenoiser, seeds: range) -> NDArray[np.uint8]:
    """[len(seeds), H, W, C] the picture of each seed."""
    import numpy as np

    parts = [seeds[first : first + BATCH] for first in range(0, len(seeds), BATCH)]
    return np.concatenate([denoiser.generate([""] * len(part), part) for part in parts])


class _Progress:
    """Turns the reports of a training, which may have begun half-way, into steps of a stage."""

    def __init__(self, every: int, advance: Callable[[], None]) -> None:
        self._every = every
        self._advance = advance
        self.shown = 0

    def __call__(self, step: int, loss: float) -> None:
        while self.shown < step // self._every:
            self._advance()
            self.shown += 1
