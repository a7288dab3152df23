"""The tiny task of the conformance checks: a network with random weights, and edge cases among the items.

It provides everything that a method may use: sampling trajectories, checkpoints with learning rates, untrained
weights, conditioning. Its scores mean nothing; checks only test properties of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.denoiser import OTHER_SEED, Encoded
from attrbench.contracts.options import Options
from attrbench.contracts.task import Items, OpenTask, Task, TaskMeta, Workspace
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.store.artifacts import Artifact
from attrbench.store.fingerprint import fingerprint

TRAIN, QUERIES, SIDE = 24, 6, 8
SILENT_PROMPT = "silent"
SILENT, CONSTANT = 1, 2
"""Indices, in the training set and the queries, of the item with zero gradients and of the black item."""
TWINS = (3, 6)
"""Indices of two equal training items."""
COPIES = {3: 12, 4: 10, 5: 17}
"""Index of a query -> index of the training item with equal image and prompt, besides the black ones."""
FEW_TRAIN, FEW_QUERIES = 7, 2
"""Numbers of training items and queries of small runs, which include the edge cases."""
CHECKPOINTS = tuple(f"step-{1000 * step}" for step in range(1, 8))


class ToyOptions(Options):
    """Options of the tiny task of the conformance checks: which images are the queries."""

    queries: Literal["generated", "train"] = "generated"
    """`generated` images; or `train`, the training items themselves."""


class ToyTask(Task[ToyOptions]):
    """The tiny task of the conformance checks: 24 training images in three groups, 6 queries, random weights."""

    meta = TaskMeta(
        name="attrbench-check",
        version=1,
        summary="the task of attrbench check",
        model="diffusers UNet2DModel (4), random weights",
        dataset="drawn with numpy",
        license="Apache-2.0",
        train_items=TRAIN,
        memory="1 GB",
    )
    Options = ToyOptions

    def __init__(self, options: ToyOptions) -> None:
        super().__init__(options)
        self._opened: OpenToy | None = None

    def open(self, workspace: Workspace) -> OpenToy:
        """Return the loaded task (model, training set, queries); later calls return the same object."""
        if self._opened is None:
            self._opened = OpenToy(workspace, self.options.queries)
        return self._opened


class OpenToy(OpenTask):
    """The loaded task of the conformance checks: model, training set and queries, each created on first use."""

    def __init__(self, workspace: Workspace, queries: Literal["generated", "train"]) -> None:
        self._workspace = workspace
        self._query_set = queries

    @cached_property
    def denoiser(self) -> ToyDenoiser:
        """Return the toy task's denoiser: a tiny DDPM with random weights."""
        return ToyDenoiser(network_folder(self._workspace.cache), self._workspace.device)

    @cached_property
    def _generated(self) -> Items:
        """Return the query images that the model generates, with one replaced by a black image as an edge case."""
        seeds = list(range(QUERIES))
        images = self.denoiser.generate([""] * QUERIES, seeds)
        images[CONSTANT] = 0
        return replace(_items(images), seeds=seeds)

    @cached_property
    def queries(self) -> Items:
        """Return the query items: the generated images, or the training items themselves, as the options say."""
        return self.train if self._query_set == "train" else self._generated

    @cached_property
    def train(self) -> Items:
        """Return the synthetic training images, with edge cases: copies of queries, two equal items, a black image."""
        images = drawn_images(TRAIN)
        for query, item in COPIES.items():
            images[item] = self._generated.images[query]
        images[CONSTANT] = 0
        images[TWINS[1]] = images[TWINS[0]]
        return _items(images)


def _items(images: NDArray[np.uint8]) -> Items:
    groups = [str(index % 3) for index in range(len(images))]
    prompts = [SILENT_PROMPT if index == SILENT else f"picture {group}" for index, group in enumerate(groups)]
    return Items(images, groups, prompts, fingerprint([images.tobytes().hex(), groups, prompts]))


def drawn_images(count: int) -> NDArray[np.uint8]:
    """Return [count, 8, 8, 3] uint8 synthetic images: noisy colored waves, with one wave direction for each group."""
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    images = np.empty((count, SIDE, SIDE, 3))
    for index in range(count):
        place = (across, down, across + down)[index % 3]
        wave = np.sin(place * rng.uniform(0.5, 1.2) + rng.uniform(0, 6))
        images[index] = wave[..., None] * rng.uniform(-0.8, 0.8, 3) + rng.normal(0, 0.2, (SIDE, SIDE, 3))
    return ((images.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)


class ToyDenoiser(DDPMDenoiser):
    """A pixel-space DDPM whose output is 0 for the prompt `silent`, so that such items have zero gradients.

    Its latents are the pixels, so that methods that compare latents can be checked.
    """

    has_latents = True

    def encode(
        self, images: NDArray[np.uint8], prompts: Sequence[str], image_range: Literal["model", "unit"]
    ) -> Encoded:
        """Return the images as pixel latents, with a factor (0 for the prompt `silent`, else 1) as conditioning."""
        latents = super().encode(images, prompts, image_range).latents
        gate = torch.tensor([float(prompt != SILENT_PROMPT) for prompt in prompts], device=latents.device)
        return Encoded(latents, {"gate": gate})

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the predicted noise, multiplied by 0 for items with the prompt `silent`."""
        predicted = super().predict(noisy, t, conditioning)
        gate = conditioning.get("gate")
        return predicted if gate is None else predicted * gate[:, None, None, None]

    def checkpoints(self) -> tuple[str, ...]:
        """Return seven checkpoint names, so that methods can use up to eight with the final weights."""
        return CHECKPOINTS

    def has_other_seed(self) -> bool:
        """Return True: the weights `other-seed` are made up like those of the checkpoints."""
        return True

    def learning_rate(self, checkpoint: str) -> float:
        """Return the learning rate 1e-3, which is made up, for every checkpoint."""
        return 1e-3

    def _load(self, checkpoint: str) -> torch.nn.Module:
        """Return the network of a checkpoint: the final weights with seeded noise added, since nothing was trained."""
        module = copy.deepcopy(self.module)
        generator = torch.Generator().manual_seed((*CHECKPOINTS, OTHER_SEED).index(checkpoint))
        with torch.no_grad():
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.05 * noise.to(parameter.device))
        return module


def network_folder(cache: Path) -> Path:
    """Return a diffusers pipeline folder with the toy network's random weights, written to the cache at first use."""
    artifact = Artifact(cache / "network", "toy network", "a DDPM with random weights")
    return artifact.kept(_save_network, lambda folder, _: folder).value


def _save_network(folder: Path) -> None:
    from diffusers import DDPMScheduler, UNet2DModel  # their pipeline would bring transformers along

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=SIDE,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(4,),
            norm_num_groups=2,
            attention_head_dim=4,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
        )
    unet.save_pretrained(str(folder / "unet"))
    DDPMScheduler(num_train_timesteps=1000).save_pretrained(str(folder / "scheduler"))
