"""Task `planted-lora-mini`: a LoRA over-fitted to planted images, whose pictures' origins are known by construction.

The queries are the model's own pictures for the captions of planted images (datasets/planted.py); the group of a query
is the planted set that its caption belongs to. The planted sets of the tuning queries are others than those of the
reported ones.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.task import Items, TaskMeta, Workspace
from attrbench.files import write_atomically
from attrbench_tasks.datasets.planted import KINDS, OF_KIND, planted_set
from attrbench_tasks.datasets.registry_mix import Captioned
from attrbench_tasks.minis.query_pictures import Prompted, QuerySet, Wanted
from attrbench_tasks.minis.text_to_image import (
    JUDGED,
    LICENSE,
    MiniTextToImageTask,
    OpenMiniTextToImage,
    items_of,
)
from attrbench_tasks.minis.text_to_image_options import MiniTextToImageOptions
from attrbench_tasks.training.train_text_to_image import LoRARecipe, TextToImageRecipe

ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
OTHERS = ("conv1", "conv2", "conv_shortcut", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
"""Adapted layers besides attention, which the network has at its two coarser resolutions alone."""
PER_CAPTION = 2
REPORTED = 3
"""Planted sets of each kind whose captions are the reported queries; the others' are the tuning queries."""


class PlantedOptions(MiniTextToImageOptions):
    """Options of `planted-lora-mini`: pictures for each planted caption, and the reported or the tuning ones."""

    queries_per_group: int = Field(PER_CAPTION, ge=1, le=100)
    """Generated queries for each planted caption."""


class PlantedLoRAMini(MiniTextToImageTask):
    """Task `planted-lora-mini`: Stable Diffusion 1.x in small, with a LoRA that reproduces twelve planted sets."""

    Options: ClassVar[type[MiniTextToImageOptions]] = PlantedOptions  # type: ignore[misc]
    family = "sd14"
    lora = True
    guidance = 2.0
    steps = 30
    meta = TaskMeta(
        name="planted-lora-mini",
        version=1,
        summary="LoRA over-fitted to planted images among 60 icons: copies, near-duplicates, mislabelled captions",
        model="diffusers StableDiffusionPipeline with LoRA, trained by `attrbench train planted-lora-mini`",
        dataset="60 icons of registry_mix32 and 12 planted sets of 20 images (attrbench_tasks.datasets.planted)",
        license=LICENSE,
        train_items=80,
        memory="3 GB",
        main_metric="average-precision",
        notes="Queries are DDIM samples (30 steps, guidance 2) of fixed seeds for planted captions, none left out; the"
        " group of a query is the planted set of its caption. The model reproduces it, so looks alone find it.",
    )

    def training_set(self) -> Captioned:
        """Return the training set: icons, the planted ones last."""
        return planted_set().items

    def drawn(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the items that an epoch draws, the planted ones several times."""
        return np.repeat(items, planted_set().repeats[items])

    @classmethod
    def recipe(cls) -> TextToImageRecipe:
        """Return the recipe of the over-fitted LoRA."""
        changes = {
            "steps": 800,
            "batch_size": 8,
            "learning_rate": 2e-3,
            "ema_decay": 0.99,
            "lora": LoRARecipe(rank=8, alpha=16, target_modules=(*ATTENTION, *OTHERS)),
            "checkpoints": (400,),
        }
        return super().recipe().model_copy(update=changes)

    def training_recipe(self) -> Mapping[str, object]:
        """Return what decides a training besides items and seed, and so how often each item is drawn as well."""
        return {**super().training_recipe(), "repeats": planted_set().repeats.tolist()}

    def open(self, workspace: Workspace) -> OpenPlanted:
        """Return the loaded task, after checking that its shipped weights are there."""
        super().open(workspace)
        return OpenPlanted(self, workspace)

    def judge(self, weights: Path, device: torch.device) -> str:
        """Draw the queries, count how many are closest to their origin, and return the counts as text.

        The counts are written beside the weights. The distance is the mean square of pixels' differences.
        """
        sets: tuple[QuerySet, ...] = ("reported", "tuning")
        of_kind: dict[str, dict[str, int]] = {kind: {"reproduced": 0, "of": 0} for kind in KINDS}
        with tempfile.TemporaryDirectory() as cache:
            denoiser = self.pipeline(weights, Workspace(Path(cache), device))
            for name in sets:
                prompted = prompts_of(Wanted(PER_CAPTION, name, Path(cache)))
                images = denoiser.generate(prompted.prompts, prompted.seeds)
                for group, image in zip(prompted.groups, images, strict=True):
                    counts = of_kind[group.rpartition(" ")[0]]
                    counts["of"] += 1
                    counts["reproduced"] += nearest_group(image, planted_set().items, planted_set().groups) == group
        write_atomically(weights / JUDGED, (json.dumps(of_kind, indent=1) + "\n").encode())
        told = ", ".join(f"{one['reproduced']} of {one['of']} {kind}" for kind, one in of_kind.items())
        return f"pictures that are closer to their origin than to any other training image: {told}"


class OpenPlanted(OpenMiniTextToImage):
    """The loaded task `planted-lora-mini`; its queries ship for the default number of pictures per caption."""

    @cached_property
    def train(self) -> Items:
        """Return icons and planted items; the group of a planted item is its set, of another icon its family."""
        items = planted_set().items
        return items_of(items.images, planted_set().groups, items.captions)

    @property
    def _prompted(self) -> Prompted:
        return prompts_of(self._wanted)


def prompts_of(wanted: Wanted) -> Prompted:
    """Return the planted captions of the reported or the tuning set of queries, with a seed for each picture."""
    chosen = range(REPORTED) if wanted.query_set == "reported" else range(REPORTED, OF_KIND)
    names = [f"{kind} {number}" for kind in KINDS for number in chosen]
    captions = {one.name: one.caption for one in planted_set().planted}
    return Prompted.of({name: [captions[name]] for name in names}, wanted)


def nearest_group(image: NDArray[np.uint8], items: Captioned, groups: Sequence[str]) -> str:
    """Return the group of the item with the smallest mean square difference from an image ([H, W, 3] uint8)."""
    difference = items.images.astype(np.float64) - image
    return groups[int(np.square(difference).mean(axis=(1, 2, 3)).argmin())]
