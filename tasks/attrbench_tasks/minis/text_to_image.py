"""Tasks `sd14-lora-mini`, `sd3-lora-mini` and `sd3-full-mini`: small Stable Diffusion pipelines on captioned icons.

All three share an autoencoder, text encoders and, by family, a pre-trained base (`weights/text-to-image-mini`). The
training set of a task is that of the fine-tuning.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.ground_truth import ComparesPictures, Design, PictureFeatures, ShipsBanks
from attrbench.contracts.model_description import ModelDescription
from attrbench.contracts.task import Items, ItemsOutline, OpenTask, Task, TaskMeta, Trainable, Workspace
from attrbench.files import write_atomically
from attrbench.models.config import ModelConfig
from attrbench.models.loading import describe_model, load_denoiser
from attrbench.models.other_weights import with_weights
from attrbench.store.fingerprint import folder_digest
from attrbench_tasks.datasets.registry_mix import FAMILIES, Captioned, part
from attrbench_tasks.minis.picture_features import classifier_features
from attrbench_tasks.minis.query_pictures import SHIPPED, KeptPictures, Prompted, Wanted
from attrbench_tasks.minis.recipes import encoded, fine_tuning, prepare, progress
from attrbench_tasks.minis.text_to_image_options import MiniTextToImageOptions
from attrbench_tasks.shipped_weights import WEIGHTS, need_weights, shipped_bank
from attrbench_tasks.training.classifier import load_classifier, probabilities
from attrbench_tasks.training.loop import RECIPE_FILE
from attrbench_tasks.training.pipeline_assembly import INDEX, assembled, pipeline_parts
from attrbench_tasks.training.train_text_to_image import Family, TextToImageRecipe, fine_tune
from attrbench_tasks.training.training_request import TrainingRequest, is_original_training

SHARED = "text-to-image-mini"
"""Folder of the parts that the minis share, beside those of the minis."""
JUDGED = "generations.json"
"""File beside the weights with the counts that `MiniTextToImageTask.judge` returns in words."""
JUDGED_SEED = 2_000_000
LICENSE = "images: MIT, Apache-2.0 and CC0 (docs/reference/tasks.md); weights: Apache-2.0"
DATASET = "registry_mix32, the tuning part: emoji in two styles, flags, cards, game art, glyphs"

NOTES = (
    " of pictures for the 183 held-out prompts show the family asked for, says a classifier that is right on 91.8% of"
    " 183 held-out images. Families are clear at a glance, subjects that were not trained on are not. Both emoji styles"
    " of a subject are in one part; the other style counts as another group."
)


class MiniTextToImageTask(Task[MiniTextToImageOptions], Trainable, ShipsBanks):
    """Base of mini tasks with a small Stable Diffusion network, fine-tuned on icons, whose weights ship along."""

    Options: ClassVar[type[MiniTextToImageOptions]] = MiniTextToImageOptions  # type: ignore[misc]
    tuning: ClassVar = {"query_set": "tuning"}
    family: ClassVar[Family]
    lora: ClassVar[bool]
    guidance: ClassVar[float]
    steps: ClassVar[int]
    """Guidance scale and sampling steps of the queries."""
    other_weights: Path | None = None
    """In place of the shipped ones."""

    @property
    def weights(self) -> Path:
        """Return the folder with the task's shipped weights, those of its fine-tuning."""
        return WEIGHTS / self.meta.name

    def bank(self, design: Design) -> Path:
        """Return the file of the effects of retrained models on the queries, which ships for some tasks."""
        return shipped_bank(self.meta.name, design, self.options)

    def training_recipe(self) -> Mapping[str, object]:
        """Return the fine-tuning's settings without the seed, and hashes of the base's parts, as JSON data.

        See `Trainable.training_recipe`.
        """
        settings = self.recipe().model_dump(mode="json", exclude={"seed", "checkpoints"})
        parts = pipeline_parts(self.family, WEIGHTS / SHARED, None)
        return {**settings, "base": {name: folder_digest(folder) for name, folder in parts.items()}}

    def training_set(self) -> Captioned:
        """Return the training set of the fine-tuning: captioned icons."""
        return part("tuning")

    def drawn(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the items that an epoch of the fine-tuning draws on a subset ([k] indices), in any order."""
        return items

    @classmethod
    def recipe(cls) -> TextToImageRecipe:
        """Return the training recipe of the task's fine-tuning: steps, learning rate, LoRA or whole network."""
        return fine_tuning(cls.family, lora=cls.lora)

    def with_weights(self, weights: Path) -> MiniTextToImageTask:
        """Return the same task with other weights of its network, or another LoRA."""
        other = copy.copy(self)
        other.other_weights = weights
        return other

    def model_config(self, cache: Path) -> ModelConfig:
        """Return how to load the task's model: with the shipped weights, unless `with_weights` gave others."""
        config = self.pipeline_config(self.weights, cache)
        return config if self.other_weights is None else with_weights(config, self.other_weights)

    def open(self, workspace: Workspace) -> OpenTask:
        """Return the loaded task, after checking that its shipped weights are there."""
        for folder in (WEIGHTS / SHARED / self.family, self.weights):
            need_weights(self.meta.name, folder / RECIPE_FILE)
        return OpenMiniTextToImage(self, workspace)

    def train(
        self,
        subset: NDArray[np.int64] | None,
        seed: int | None,
        out: Path,
        device: torch.device,
        report: Callable[[str], None],
    ) -> Path:
        """Fine-tune a shared pre-trained network into a folder, on all items or a subset.

        See `Trainable.train`.

        A subset or a seed is trained on the base that ships with the package. The original training takes the shared
        parts beside `out` instead, and trains those that are missing there first.
        """
        out = out.absolute()
        items = self.training_set()
        request = TrainingRequest(len(items), subset, seed)
        recipe = request.recipe(self.recipe())
        if request.begin(recipe, out, self.meta.name, report):
            return out
        shared = self.shared_parts(out)
        if request.is_original:
            prepare(self.family, shared, device, report)
        data = encoded(self.family, shared, items, device).subset(self.drawn(request.indices))
        fine_tune(recipe, shared / self.family, data, progress(self.meta.name, recipe, out, report))
        if request.is_original:
            report(f"{self.meta.name}: {self.judge(out, device)}")
        return out

    def trained(self, folder: Path, workspace: Workspace) -> Denoiser:
        """Return the denoiser of a fine-tuned pipeline, from the weights that `train` wrote into a folder."""
        return self.pipeline(folder, workspace)

    @staticmethod
    def shared_parts(weights: Path) -> Path:
        """Return the folder of autoencoder, text encoders and base network for a fine-tuning's weights."""
        return (weights.absolute().parent if is_original_training(weights) else WEIGHTS) / SHARED

    def pipeline(self, weights: Path, workspace: Workspace) -> Denoiser:
        """Return the denoiser of the pipeline with these fine-tuned weights, loaded to a device.

        Args:
            weights: folder of the fine-tuning.
            workspace: device, and the cache in which the pipeline is put together.
        """
        return load_denoiser(self.pipeline_config(weights, workspace.cache), workspace.device)

    def pipeline_config(self, weights: Path, cache: Path) -> ModelConfig:
        """Return the configuration to load a fine-tuned pipeline, whose folder is assembled in the cache."""
        parts = pipeline_parts(self.family, self.shared_parts(weights), None if self.lora else weights)
        return ModelConfig(
            model=str(assembled(INDEX[self.family], parts, cache)),
            lora=str(weights) if self.lora else None,
            attributed=self.options.attributed,
            sampling_steps=self.steps,
            guidance_scale=self.guidance,
        )

    def judge(self, weights: Path, device: torch.device) -> str:
        """Return as text how many images for held-out prompts show the prompt's family, by a classifier.

        Each prompt is drawn once, with seeds that no query has. The counts are written beside the weights.
        """
        held_out = part("held_out")
        with tempfile.TemporaryDirectory() as cache:
            denoiser = self.pipeline(weights, Workspace(Path(cache), device))
            pictures = denoiser.generate(held_out.captions, range(JUDGED_SEED, JUDGED_SEED + len(held_out)))
        families = probabilities(load_classifier(weights.parent / SHARED), pictures).argmax(1)
        is_right = families == held_out.families
        members = {name: held_out.families == i for i, name in enumerate(FAMILIES)}
        counts = {name: {"right": int(is_right[of].sum()), "of": int(of.sum())} for name, of in members.items()}
        right = int(is_right.sum())
        report = {"right": right, "of": len(held_out), "share": round(right / len(held_out), 4), "families": counts}
        write_atomically(weights / JUDGED, (json.dumps(report, indent=1) + "\n").encode())
        return f"{right} of {len(held_out)} pictures for held-out prompts show the family asked for, by the classifier"


class SD14LoRAMini(MiniTextToImageTask):
    """Task `sd14-lora-mini`: a small Stable Diffusion 1.x with LoRA on 825 icons, a laptop version of `sd14-lora`."""

    family = "sd14"
    lora = True
    guidance = 3.0
    steps = 30
    meta = TaskMeta(
        name="sd14-lora-mini",
        version=1,
        summary="SD 1.x in small (2.16M parameters, 32x32 pixels), LoRA on 825 captioned icons, 60 generated queries",
        model="diffusers StableDiffusionPipeline with LoRA, trained by `attrbench train sd14-lora-mini`",
        dataset=DATASET,
        license=LICENSE,
        train_items=825,
        memory="3 GB",
        notes="Queries are DDIM samples (30 steps, guidance 3) of fixed seeds for held-out prompts, none left out. 93%"
        + NOTES,
    )


class SD3LoRAMini(MiniTextToImageTask):
    """Task `sd3-lora-mini`: a small Stable Diffusion 3 with LoRA on 825 icons, a laptop version of `sd3-lora`."""

    family = "sd3"
    lora = True
    guidance = 3.0
    steps = 28
    meta = TaskMeta(
        name="sd3-lora-mini",
        version=1,
        summary="SD 3 in small (1.6M parameters, 32x32 pixels), LoRA on 825 captioned icons, 60 generated queries",
        model="diffusers StableDiffusion3Pipeline with LoRA, trained by `attrbench train sd3-lora-mini`",
        dataset=DATASET,
        license=LICENSE,
        train_items=825,
        memory="3 GB",
        notes="Queries are Euler samples (28 steps, guidance 3) of fixed seeds for held-out prompts, none left out. 91%"
        + NOTES,
    )


class SD3FullMini(MiniTextToImageTask):
    """Task `sd3-full-mini`: a small, fully fine-tuned Stable Diffusion 3, a laptop version of `sd3-full`."""

    family = "sd3"
    lora = False
    guidance = 3.0
    steps = 28
    meta = TaskMeta(
        name="sd3-full-mini",
        version=1,
        summary="SD 3 in small (1.6M parameters, 32x32 pixels), fully fine-tuned on 825 icons, 60 generated queries",
        model="diffusers StableDiffusion3Pipeline, trained by `attrbench train sd3-full-mini`",
        dataset=DATASET,
        license=LICENSE,
        train_items=825,
        memory="3 GB",
        notes="Queries are Euler samples (28 steps, guidance 3) of fixed seeds for held-out prompts, none left out. 95%"
        + NOTES,
    )


class OpenMiniTextToImage(OpenTask, ComparesPictures):
    """A loaded text-to-image mini task; training set, generated queries and model are loaded on first use."""

    def __init__(self, task: MiniTextToImageTask, workspace: Workspace) -> None:
        self._task = task
        self._workspace = workspace

    @cached_property
    def train(self) -> Items:
        """Return the captioned icons of the fine-tuning; each item's group is its family."""
        icons = self._task.training_set()
        return items_of(icons.images, [FAMILIES[family] for family in icons.families], icons.captions)

    @cached_property
    def queries(self) -> Items:
        """Return the queries: images generated for held-out prompts; each group is the prompt's family.

        See `query_pictures`.
        """
        prompted = self._prompted
        images = self.pictures.arrays()["images"]
        return items_of(images, prompted.groups, prompted.prompts, prompted.seeds)

    @property
    def query_outline(self) -> ItemsOutline:
        """Return the number and hash of the queries for planning, without generating any image."""
        return self.pictures.outline(lambda: self.queries)

    @property
    def pictures(self) -> KeptPictures:
        """Return the file of the queries, which ships with the task for its default number of queries."""
        return self._prompted.pictures(self, self._wanted)

    @property
    def _wanted(self) -> Wanted:
        options = self._task.options
        shipped = self._task.weights / SHIPPED
        return Wanted(options.queries_per_group, options.query_set, self._workspace.cache, shipped)

    @property
    def _prompted(self) -> Prompted:
        return Prompted.of(by_family(part("held_out")), self._wanted)

    @cached_property
    def model_config(self) -> ModelConfig:
        """Return how the pipeline is loaded, with its LoRA where it has one."""
        return self._task.model_config(self._workspace.cache)

    @cached_property
    def denoiser(self) -> Denoiser:
        """Return the task's pipeline as a denoiser, with its LoRA where it has one, on first use."""
        return load_denoiser(self.model_config, self._workspace.device)

    @cached_property
    def picture_features(self) -> PictureFeatures:
        """Return the features of pictures in the last hidden layer of the classifier of the six families."""
        return classifier_features(WEIGHTS / SHARED)

    @cached_property
    def model_description(self) -> ModelDescription:
        """Return the pipeline's image shape and identity for planning, without loading weights."""
        return describe_model(self.model_config)

    @cached_property
    def drawing_model(self) -> ModelDescription:
        """Return the description by which pictures that the model draws are kept, whatever is differentiated."""
        config = self.model_config
        return self.model_description if config == config.drawing else describe_model(config.drawing)


def by_family(items: Captioned) -> dict[str, list[str]]:
    """Return the captions of icons by family name, from which the queries' prompts are taken."""
    captions: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for caption, family in zip(items.captions, items.families, strict=True):
        captions[FAMILIES[family]].append(caption)
    return captions


def items_of(
    images: NDArray[np.uint8], groups: Sequence[str], prompts: Sequence[str], seeds: Sequence[int] | None = None
) -> Items:
    """Return images ([n, H, W, 3] uint8) with groups, prompts and seeds as items, fingerprinted by their contents."""
    words = json.dumps([images.shape, list(groups), list(prompts)]).encode()
    return Items(images, groups, prompts, hashlib.sha256(words + images.tobytes()).hexdigest(), seeds)
