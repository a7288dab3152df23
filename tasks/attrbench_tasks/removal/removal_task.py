"""Base of removal tasks, which retrain without retrieved images; queries are the generated digits of thickest stroke.

A task gives its images, its recipe and the folder of its model; this module opens it. The experiment itself is the
ground truth `removal` (attrbench.ground_truth.removal).
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from attrbench.contracts.model_description import ModelDescription
from attrbench.contracts.model_family import META
from attrbench.contracts.options import Options
from attrbench.contracts.task import Items, ItemsOutline, OpenTask, Task, Trainable, Workspace
from attrbench.errors import UsageError
from attrbench.ground_truth.removal import Removable, RemovalRule, RemovalStudy
from attrbench.ground_truth.retraining import draw
from attrbench.metrics.removal import highest
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.store.artifacts import Artifact
from attrbench.store.fingerprint import fingerprint
from attrbench_tasks.minis.query_pictures import SHIPPED, KeptPictures
from attrbench_tasks.removal.thickness import METRIC, Formula, thicknesses
from attrbench_tasks.training.classifier import Labeled
from attrbench_tasks.training.train_ddpm import DDPMRecipe, is_trained, scaled, train_ddpm
from attrbench_tasks.training.training_request import TrainingRequest

THICK_SHARE = 0.25
"""The share of the training set whose strokes are the thickest: the group that the retrieval metrics look for."""
FIRST_PICTURE = 1_000_000
"""Seed of the first picture that is measured; the queries' seeds count from 0."""


class RemovalOptions(Options):
    """Options of the removal tasks: queries, how many retrieved items are removed, retraining seeds, measurement."""

    needs: ClassVar = {"removed": "removal=most-retrieved"}
    generations: int = Field(1000, ge=1)
    """Pictures that the model draws for the choice of the queries."""
    queries: int = Field(100, ge=1)
    """How many of them, those with the thickest strokes, are queries."""
    top_k: int = Field(83, ge=1)
    """Training items of each query that count as retrieved."""
    removal: Literal["union", "most-retrieved"] = "most-retrieved"
    """`union`: all that are retrieved by any query (the paper); `most-retrieved`: `removed` of them, by how many."""
    removed: int = Field(1250, ge=1)
    """How many items `most-retrieved` removes, of every method."""
    seeds: int = Field(2, ge=1, le=100)
    """Training seeds: as many models for each removed set."""
    pictures: int = Field(512, ge=2)
    """New pictures of each model that are measured."""
    thickness: Formula = "skeleton"
    """`skeleton`: twice the mean distance of a stroke's middle from its edge; `area`: ink by length of the strokes."""

    @model_validator(mode="after")
    def _enough_generations(self) -> RemovalOptions:
        if self.queries > self.generations:
            raise ValueError(f"queries={self.queries}: that is more than the {self.generations} generations")
        return self

    @property
    def rule(self) -> RemovalRule:
        """Return the rule that selects the training items to remove, given a method's rankings."""
        return RemovalRule(self.removal, self.top_k, self.removed)


class RemovalTask(Task[RemovalOptions], Trainable):
    """Base class of removal tasks; a subclass gives training images, training recipe and the trained model's folder.

    Attributes:
        checkpoint_every: steps between two states on disk, from which an interrupted training goes on.
    """

    Options: ClassVar[type[RemovalOptions]] = RemovalOptions  # type: ignore[misc]
    checkpoint_every: ClassVar[int] = 200

    @abstractmethod
    def data(self) -> Labeled:
        """Return the training set: [n, H, W, 1] uint8 images of digits and [n] digits."""

    @staticmethod
    @abstractmethod
    def recipe() -> DDPMRecipe:
        """Return the DDPM's training recipe, for the whole training set and for what is left after a removal."""

    @abstractmethod
    def model(self) -> Path:
        """Return the folder of the DDPM that was trained on the whole training set.

        Raises:
            AttrbenchError: where there is none.
        """

    def open(self, workspace: Workspace) -> OpenRemoval:
        """Return the loaded task, after checking that its model, images and number of removed items are valid.

        Raises:
            UsageError: where nothing of the training set would be left.
        """
        folder, data = self.model(), self.data()
        if self.options.removal == "most-retrieved" and self.options.removed >= len(data[0]):
            raise UsageError(
                f"task {self.meta.name}: removed={self.options.removed} would leave nothing of the {len(data[0])}"
                " training items"
            )
        return OpenRemoval(self, folder, data, workspace)

    def train(
        self,
        subset: NDArray[np.int64] | None,
        seed: int | None,
        out: Path,
        device: torch.device,
        report: Callable[[str], None],
    ) -> Path:
        """Train the DDPM on all items or on a subset, such as what is left after a removal, into a folder.

        See `Trainable.train`.
        """
        images = self.data()[0]
        request = TrainingRequest(len(images), subset, seed)
        recipe = request.recipe(self.recipe())
        if request.begin(recipe, out, self.meta.name, report):
            return out
        return train_ddpm(
            recipe,
            scaled(images[request.indices]),
            out,
            device=device,
            report=lambda step, loss: report(f"step {step} of {recipe.steps}: loss {loss:.4f}"),
            checkpoint_every=self.checkpoint_every,
        )

    def training_recipe(self) -> Mapping[str, object]:
        """Return the DDPM's training settings without the seed, as JSON data, which decide a retraining on given items.

        See `Trainable.training_recipe`.
        """
        return self.recipe().model_dump(mode="json", exclude={"seed", "checkpoints"})

    def trained(self, folder: Path, workspace: Workspace) -> DDPMDenoiser:
        """Return the denoiser of a DDPM that `train` wrote into a folder."""
        return DDPMDenoiser(folder, workspace.device)


class OpenRemoval(OpenTask, Removable):
    """A loaded removal task; training set, generated queries and model are loaded on first use.

    Args:
        task: the task.
        folder: of its model.
        data: its training images and their digits.
        workspace: where queries and retrained models' pictures are kept.
    """

    def __init__(self, task: RemovalTask, folder: Path, data: Labeled, workspace: Workspace) -> None:
        self._task = task
        self._folder = folder
        self._images, self._digits = data
        self._workspace = workspace

    @cached_property
    def train(self) -> Items:
        """Return the training images; an item's group is `thick` for the quarter of thickest strokes, else `other`."""
        thick = np.zeros(len(self._images), bool)
        thick[highest(self._strokes, int(THICK_SHARE * len(self._images)))] = True
        groups = ["thick" if is_thick else "other" for is_thick in thick]
        return Items(self._images, groups, [""] * len(groups), self._digest)

    @cached_property
    def _digest(self) -> str:
        content = self._images.tobytes() + self._digits.tobytes()
        return hashlib.sha256(repr(self._images.shape).encode() + content).hexdigest()

    @cached_property
    def _strokes(self) -> NDArray[np.float64]:
        """Return the [n] stroke thickness of the training images, in pixels, computed once and cached."""
        formula = self._task.options.thickness
        kept = self._kept("thickness", f"{len(self._images):,} training images, by {formula}", self._digest)
        return kept.arrays(lambda: {"thickness": thicknesses(self._images, formula)}).value["thickness"]

    def _kept(self, kind: str, summary: str, *parts: object) -> Artifact:
        key = fingerprint([kind, self._task.options.thickness, *parts])
        shown = {"thickness": "stroke thickness", "thickest": "generated queries"}[kind]
        return Artifact(self._workspace.cache / "queries" / f"{key[:20]}.safetensors", shown, summary)

    @cached_property
    def queries(self) -> Items:
        """Return the queries: those generated images whose strokes are the thickest, the thickest first."""
        kept = self.pictures.arrays()
        digest = fingerprint(["thickest", kept["images"].tobytes().hex()])
        groups = ["thick"] * len(kept["images"])
        return Items(kept["images"], groups, [""] * len(groups), digest, seeds=kept["seeds"].tolist())

    @property
    def query_outline(self) -> ItemsOutline:
        """Return the number and hash of the queries for planning, without generating any image."""
        return self.pictures.outline(lambda: self.queries)

    @property
    def pictures(self) -> KeptPictures:
        """Return the file of the queries, which may ship beside the model."""
        options, model = self._task.options, self.model_description.fingerprint
        summary = f"the {options.queries} of {options.generations} generated pictures with the thickest strokes"
        artifact = self._kept("thickest", summary, model, options.generations, options.queries)
        return KeptPictures(artifact, options.queries, self._thickest, self._folder / SHIPPED)

    def _thickest(self) -> dict[str, NDArray[Any]]:
        options = self._task.options
        pictures = draw(self.denoiser, range(options.generations))
        strokes = np.nan_to_num(thicknesses(pictures, options.thickness))
        seeds = np.argsort(-strokes, kind="stable")[: options.queries]
        return {"images": np.ascontiguousarray(pictures[seeds]), "seeds": seeds, "thickness": strokes}

    @cached_property
    def denoiser(self) -> DDPMDenoiser:
        """Return the DDPM that was trained on all items, loaded to the run's device on first use."""
        return DDPMDenoiser(self._folder, self._workspace.device)

    @cached_property
    def model_description(self) -> ModelDescription:
        """Return the trained DDPM's shapes and hash for planning; its weights file is hashed, but not loaded."""
        return ModelDescription(DDPMDenoiser(self._folder, META))

    @cached_property
    def removal(self) -> RemovalStudy:
        """Return the experiment's settings: the removal rule, retraining seeds and how strokes are measured.

        See `Removable`.
        """
        options, recipe = self._task.options, self._task.recipe()
        return RemovalStudy(
            metric=METRIC,
            quantity="thickness",
            largest="thickest",
            measure=partial(thicknesses, formula=options.thickness),
            item_values=self._strokes,
            classes=self._digits,
            rule=options.rule,
            seeds=range(recipe.seed, recipe.seed + options.seeds),
            pictures=range(FIRST_PICTURE, FIRST_PICTURE + options.pictures),
            training=f"{recipe.steps} steps",
            least_items=recipe.batch_size,
            own_seed=recipe.seed if is_trained(self._folder, recipe) else None,
        )
