"""Base classes of mini tasks with a small unconditional DDPM, whose generated queries a classifier labels.

A task gives its labeled images and its recipes; this module opens them: the training set, the shipped weights, and
queries that the model generated with fixed seeds, labeled by a classifier that never saw its test images.
"""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.ground_truth import ComparesPictures, Design, PictureFeatures, ShipsBanks
from attrbench.contracts.model_description import ModelDescription
from attrbench.contracts.model_family import META
from attrbench.contracts.options import Options
from attrbench.contracts.task import Items, ItemsOutline, OpenTask, Task, Trainable, Workspace
from attrbench.models.config import ModelConfig
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.models.other_weights import with_weights
from attrbench_tasks.minis.picture_features import classifier_features
from attrbench_tasks.minis.query_pictures import SHIPPED, KeptPictures, Wanted, labeled_pictures
from attrbench_tasks.shipped_weights import WEIGHTS, need_weights, shipped_bank
from attrbench_tasks.training.classifier import ClassifierRecipe, Labeled, train_classifier
from attrbench_tasks.training.train_ddpm import DDPMRecipe, scaled, train_ddpm
from attrbench_tasks.training.training_request import TrainingRequest


class MiniDDPMOptions(Options):
    """Options of the mini DDPM tasks: queries per class, and whether they are the reported or the tuning ones."""

    queries_per_group: int = Field(10, ge=1, le=100)
    """Generated queries for each class."""
    query_set: Literal["reported", "tuning"] = "reported"
    """`tuning`: queries of other seeds, for choosing options; nothing may be chosen on the reported ones."""


@dataclass(frozen=True)
class LabeledImages:
    """Images of a mini DDPM task, [n, H, W, C] uint8, with class numbers, [n]: for DDPM, classifier and its test.

    Attributes:
        train: the training set of the diffusion model.
        classifier: what the classifier of the queries was trained on.
        held_out: images that the classifier did not see; they test it.
        names: of the classes; where empty, classes are called by their numbers.
    """

    train: Labeled
    classifier: Labeled
    held_out: Labeled
    names: tuple[str, ...] = ()

    def items(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Items:
        """Return images ([n, H, W, C]) as a task's `Items`, each with its class name as its group."""
        digest = hashlib.sha256(repr(images.shape).encode() + images.tobytes() + labels.tobytes()).hexdigest()
        groups = [self.names[label] if self.names else str(label) for label in labels]
        return Items(images, groups, [""] * len(images), digest)


def gray_unet(size: int, channels: Sequence[int], groups: int = 8) -> dict[str, Any]:
    """Return the arguments of a small `UNet2DModel` of gray pictures: a block a level, attention in the middle alone.

    Args:
        size: side of the pictures, in pixels.
        channels: of each level.
        groups: of the group normalization, and channels of an attention head.
    """
    return {
        "sample_size": size,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": list(channels),
        "norm_num_groups": groups,
        "attention_head_dim": groups,
        "down_block_types": ["DownBlock2D"] * len(channels),
        "up_block_types": ["UpBlock2D"] * len(channels),
    }


def two_level_recipe(size: int) -> DDPMRecipe:
    """Return the recipe of the smallest DDPM (channels 16, 32; 4,000 steps of 64 gray images), for pictures of a side.

    Args:
        size: side of the pictures, in pixels.
    """
    return DDPMRecipe(unet=gray_unet(size, [16, 32]), steps=4_000, batch_size=64, learning_rate=2e-3)


class MiniDDPMTask(Task[MiniDDPMOptions], Trainable, ShipsBanks):
    """Base of mini tasks with a small DDPM, and a classifier of its queries, whose weights ship with the package."""

    Options: ClassVar[type[MiniDDPMOptions]] = MiniDDPMOptions  # type: ignore[misc]
    tuning: ClassVar = {"query_set": "tuning"}

    @staticmethod
    @abstractmethod
    def data() -> LabeledImages:
        """Return the task's labeled images: for training the DDPM, and for training and testing the classifier."""

    @staticmethod
    @abstractmethod
    def recipes() -> tuple[DDPMRecipe, ClassifierRecipe]:
        """Return the training recipes of the DDPM and of the classifier that labels its generated queries."""

    @property
    def weights(self) -> Path:
        """Return the folder with the task's shipped weights, of DDPM and classifier."""
        return WEIGHTS / self.meta.name

    def bank(self, design: Design) -> Path:
        """Return the file of the effects of retrained models on the queries, which ships for some tasks."""
        return shipped_bank(self.meta.name, design, self.options)

    @property
    def own_model(self) -> ModelConfig:
        """Return the configuration of the DDPM that ships with the task, by default beside its classifier."""
        return ModelConfig(model=str(self.weights))

    @cached_property
    def model(self) -> ModelConfig:
        """Return the configuration of the task's DDPM: the shipped weights, unless `with_weights` gave others."""
        return self.own_model

    def with_weights(self, weights: Path) -> MiniDDPMTask:
        """Return the same task with other weights of its DDPM, such as a retrained one."""
        other = copy.copy(self)
        other.model = with_weights(self.model, weights)
        return other

    def open(self, workspace: Workspace) -> OpenMiniDDPM:
        """Return the loaded task, after checking that its shipped weights are there."""
        need_weights(self.meta.name, self.weights / "classifier.safetensors")
        return OpenMiniDDPM(self, workspace)

    def train(
        self,
        subset: NDArray[np.int64] | None,
        seed: int | None,
        out: Path,
        device: torch.device,
        report: Callable[[str], None],
    ) -> Path:
        """Train the DDPM into a folder, on all items or a subset; for the shipped weights the classifier first.

        See `Trainable.train`.
        """
        data = self.data()
        request = TrainingRequest(len(data.train[0]), subset, seed)
        ddpm_recipe, classifier_recipe = self.recipes()
        recipe = request.recipe(ddpm_recipe)
        if request.begin(recipe, out, self.meta.name, report):
            return out
        if request.is_original:
            accuracy = train_classifier(classifier_recipe, data.classifier, data.held_out, out, device)
            report(f"classifier: {accuracy:.2%} of {len(data.held_out[1])} held-out images right")
        return train_ddpm(
            recipe,
            scaled(data.train[0][request.indices]),
            out,
            device=device,
            report=lambda step, loss: report(f"step {step} of {recipe.steps}: loss {loss:.4f}"),
        )

    def training_recipe(self) -> Mapping[str, object]:
        """Return the DDPM's training settings without the seed, as JSON data, which decide a retraining on given items.

        See `Trainable.training_recipe`.
        """
        return self.recipes()[0].model_dump(mode="json", exclude={"seed", "checkpoints"})

    def trained(self, folder: Path, workspace: Workspace) -> DDPMDenoiser:
        """Return the denoiser of a DDPM that `train` wrote into a folder."""
        return DDPMDenoiser(folder, workspace.device)


class OpenMiniDDPM(OpenTask, ComparesPictures):
    """A loaded mini DDPM task; training set, generated queries and model are loaded on first use."""

    def __init__(self, task: MiniDDPMTask, workspace: Workspace) -> None:
        self._task = task
        self._workspace = workspace

    @cached_property
    def train(self) -> Items:
        """Return the training images of the DDPM; each item's group is its class."""
        data = self._task.data()
        return data.items(*data.train)

    @cached_property
    def queries(self) -> Items:
        """Return the queries: images that the DDPM generates, labeled by a classifier; ambiguous ones are left out.

        See `query_pictures`.
        """
        kept = self.pictures.arrays()
        return replace(self._task.data().items(kept["images"], kept["labels"]), seeds=kept["seeds"].tolist())

    @property
    def query_outline(self) -> ItemsOutline:
        """Return the number and hash of the queries for planning, without generating any image."""
        return self.pictures.outline(lambda: self.queries)

    @property
    def pictures(self) -> KeptPictures:
        """Return the file of the queries, which ships with the task for its default number of queries."""
        options, shipped = self._task.options, self._task.weights / SHIPPED
        wanted = Wanted(options.queries_per_group, options.query_set, self._workspace.cache, shipped)
        return labeled_pictures(self, self._task.weights, wanted)

    @cached_property
    def picture_features(self) -> PictureFeatures:
        """Return the features of pictures in the last hidden layer of the queries' classifier."""
        return classifier_features(self._task.weights)

    @cached_property
    def model_description(self) -> ModelDescription:
        """Return the DDPM's shapes and hash for planning; its weights file is hashed, but not loaded."""
        return ModelDescription(DDPMDenoiser(Path(self._task.model.model), META))

    @cached_property
    def denoiser(self) -> DDPMDenoiser:
        """Return the task's DDPM as a denoiser, loaded to the run's device on first use."""
        return DDPMDenoiser(Path(self._task.model.model), self._workspace.device)
