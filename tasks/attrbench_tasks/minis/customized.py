"""Task `customized-mini`: eight LoRAs, each customized on a handful of exemplars, which its pictures come from.

After Wang et al. 2023, "Evaluating Data Attribution for Text-to-Image Models" (arXiv 2306.09345): a model is fine-tuned
on a few exemplars (datasets/customized.py) under a word of their own, and draws prompts with that word. The exemplars
are the truth by construction. `model=0` .. `7` is the task of one model; without it a run asks all eight, and pools.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.several_models import SeveralModels, several_models
from attrbench.contracts.task import Items, OpenTask, TaskMeta, Workspace
from attrbench.data.open_several_models import OpenSeveralModels
from attrbench.files import write_atomically
from attrbench.models.loading import load_denoiser
from attrbench_tasks.datasets.customized import KINDS, OF_KIND, Concept, Kind, concepts, customized_set
from attrbench_tasks.datasets.registry_mix import Captioned
from attrbench_tasks.minis.planted import ATTENTION, OTHERS, nearest_group
from attrbench_tasks.minis.query_pictures import Prompted, QuerySet, Wanted
from attrbench_tasks.minis.text_to_image import (
    JUDGED,
    LICENSE,
    SHARED,
    MiniTextToImageTask,
    OpenMiniTextToImage,
    items_of,
)
from attrbench_tasks.minis.text_to_image_options import MiniTextToImageOptions
from attrbench_tasks.shipped_weights import WEIGHTS
from attrbench_tasks.training.train_text_to_image import LoRARecipe, TextToImageRecipe
from attrbench_tasks.training.training_request import is_original_training

MODELS = len(KINDS) * OF_KIND
PER_MODEL = 6
PROMPTS: dict[Kind, tuple[str, ...]] = {
    "object": (
        "a {}",
        "a {}, open",
        "a {}, old",
        "a {}, on ground",
        "a {}, with face",
        "a {}, flying",
        "a {}, made of wood",
        "a {}, high",
        "a {}, at home",
        "a {}, double",
        "a {}, closed",
        "a {}, centered",
    ),
    "style": tuple(
        f"{{}} style, a flat emoji of {subject}"
        for subject in (
            *("house", "cat", "bell", "fish", "lock", "flower"),
            *("hat", "leaf", "heart", "book", "moon", "key"),
        )
    ),
}
"""Prompts of each kind of concept; the reported queries take them in order, the tuning queries from the last one on."""


class CustomizedOptions(MiniTextToImageOptions):
    """Options of `customized-mini`: which model, pictures of each model, and the reported or the tuning ones."""

    model: int | None = Field(None, ge=0, lt=MODELS)
    """Number of the customized model; `none`: all of them, pooled."""
    queries_per_group: int = Field(PER_MODEL, ge=1, le=100)
    """Generated queries of each model."""


class CustomizedMini(MiniTextToImageTask, SeveralModels):
    """Task `customized-mini`: Stable Diffusion 1.x in small, customized eight times on four exemplars by a LoRA."""

    Options: ClassVar[type[MiniTextToImageOptions]] = CustomizedOptions  # type: ignore[misc]
    options: CustomizedOptions
    family = "sd14"
    lora = True
    guidance = 3.0
    steps = 30
    meta = TaskMeta(
        name="customized-mini",
        version=1,
        summary="eight LoRAs, each customized on four exemplars under a word of their own: the origins are known",
        model="eight diffusers StableDiffusionPipelines with LoRA, trained by `attrbench train customized-mini`",
        dataset="68 icons of registry_mix32 and 8 x 4 exemplars (attrbench_tasks.datasets.customized)",
        license=LICENSE,
        train_items=100,
        memory="3 GB",
        main_metric="average-precision",
        notes="Queries are DDIM samples (30 steps, guidance 3) of fixed seeds for prompts with the word, none left out;"
        " the group of a query is the concept that its model was customized on. The word is in the exemplars' captions,"
        " so that a method that reads them alone finds all (`caption`): `prompt=empty` keeps it from gradients.",
    )

    @property
    def parts(self) -> Sequence[Mapping[str, str]]:
        """Return the options of the task of each model; empty where the options name one."""
        return [{"model": str(number)} for number in range(MODELS)] if self.options.model is None else []

    @property
    def weights(self) -> Path:
        """Return the folder of the model's weights; without a model, that of all."""
        return self._folder(super().weights)

    def _folder(self, every: Path) -> Path:
        return every if self.options.model is None else every / str(self.options.model)

    @property
    def _models(self) -> dict[str, CustomizedMini]:
        """Return the task of each model by the option that names it."""
        every = [self.options.model_copy(update={"model": number}) for number in range(MODELS)]
        return {f"model={options.model}": type(self)(options) for options in every}

    def training_set(self) -> Captioned:
        """Return the training set of the model: icons, the exemplars last."""
        return customized_set(self.options.model).items

    def drawn(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the items that an epoch draws, the model's own exemplars several times."""
        return np.repeat(items, customized_set(self.options.model).repeats[items])

    @classmethod
    def recipe(cls) -> TextToImageRecipe:
        """Return the recipe of each customization."""
        changes = {
            "steps": 600,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "warmup": 20,
            "ema_decay": 0.98,
            "lora": LoRARecipe(rank=3, alpha=12, target_modules=(*ATTENTION, *OTHERS)),
            "checkpoints": (),
        }
        return super().recipe().model_copy(update=changes)

    def training_recipe(self) -> Mapping[str, object]:
        """Return what decides a training besides items and seed, and so how often each item is drawn as well."""
        return {**super().training_recipe(), "repeats": customized_set(self.options.model).repeats.tolist()}

    def open(self, workspace: Workspace) -> OpenTask:
        """Return the loaded task of the model or of all, after checking that its shipped weights are there."""
        if self.options.model is not None:
            super().open(workspace)
            return OpenCustomized(self, workspace)
        plain = customized_set(None)
        train = items_of(plain.items.images, plain.groups, plain.items.captions)
        models = {name: task.open(workspace) for name, task in self._models.items()}
        return OpenSeveralModels(self.meta.name, train, models)

    def with_weights(self, weights: Path) -> MiniTextToImageTask:
        """Return the task of one model with another LoRA.

        Raises:
            UsageError: where the options name no model.
        """
        self._need_model()
        return super().with_weights(weights)

    def train(
        self,
        subset: NDArray[np.int64] | None,
        seed: int | None,
        out: Path,
        device: torch.device,
        report: Callable[[str], None],
    ) -> Path:
        """Customize the model into a folder; without a model, all of them into its subfolders 0 .. 7.

        See `Trainable.train`.

        Raises:
            UsageError: for a subset or a seed where the options name no model.
        """
        if subset is not None or seed is not None:
            self._need_model()
        if self.options.model is not None:
            return super().train(subset, seed, out, device, report)
        for name, task in self._models.items():
            report(f"{self.meta.name}: {name}")
            task.train(None, None, task._folder(out), device, report)
        return out

    def _need_model(self) -> None:
        if self.options.model is None:
            raise several_models(self.meta.name, list(self._models))

    @staticmethod
    def shared_parts(weights: Path) -> Path:
        """Return the folder of the shared parts for a model's weights: beside the folder of all models."""
        return (weights.absolute().parents[1] if is_original_training(weights) else WEIGHTS) / SHARED

    def judge(self, weights: Path, device: torch.device) -> str:
        """Draw the queries, count those that are closest to an exemplar, and return the counts as text.

        The base network without the LoRA draws the same prompts from the same noise, for comparison. The counts are
        written beside the weights. The distance is the mean square of pixels' differences.
        """
        sets: tuple[QuerySet, ...] = ("reported", "tuning")
        counts = {"the model": 0, "the base": 0}
        with tempfile.TemporaryDirectory() as cache:
            config = self.pipeline_config(weights, Path(cache))
            for name, each in zip(counts, (config, config.model_copy(update={"lora": None})), strict=True):
                denoiser = load_denoiser(each, device)
                for prompted in (prompts_of(self.concept, Wanted(PER_MODEL, chosen, Path(cache))) for chosen in sets):
                    counts[name] += self.closest(denoiser.generate(prompted.prompts, prompted.seeds))
        of = PER_MODEL * len(sets)
        report = {"concept": self.concept.name, "closest to an exemplar": counts, "of": of}
        write_atomically(weights / JUDGED, (json.dumps(report, indent=1) + "\n").encode())
        own, base = counts.values()
        return f"{own} of {of} pictures are closer to an exemplar than to any other image; without the LoRA {base}"

    def closest(self, images: NDArray[np.uint8]) -> int:
        """Return how many of m images ([m, 32, 32, 3] uint8) are closer to an exemplar than to all other items."""
        known = customized_set(self.options.model)
        return sum(nearest_group(image, known.items, known.groups) == self.concept.name for image in images)

    @property
    def concept(self) -> Concept:
        """Return what the model is customized on.

        Raises:
            UsageError: where the options name no model.
        """
        self._need_model()
        return concepts()[self.options.model or 0]


class OpenCustomized(OpenMiniTextToImage):
    """The loaded task of one model of `customized-mini`; its queries ship for the default number of pictures."""

    _task: CustomizedMini

    @cached_property
    def train(self) -> Items:
        """Return icons and exemplars; the group of an exemplar is its concept, of another icon its family."""
        known = customized_set(self._task.options.model)
        return items_of(known.items.images, known.groups, known.items.captions)

    @property
    def _prompted(self) -> Prompted:
        return prompts_of(self._task.concept, self._wanted)


def prompts_of(concept: Concept, wanted: Wanted) -> Prompted:
    """Return prompts with the word of a concept, for the reported or the tuning queries, with a seed for each."""
    return Prompted.of({concept.name: [prompt.format(concept.word) for prompt in PROMPTS[concept.kind]]}, wanted)
