"""A task that keeps to the contract, and relatives that each break one promise of it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from attrbench.conformance.toy_task import drawn_images, network_folder
from attrbench.contracts.denoiser import Encoded
from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.contracts.model_description import ModelDescription
from attrbench.contracts.options import Options
from attrbench.contracts.task import Items, ItemsOutline, OpenTask, Task, TaskMeta, Workspace
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.store.fingerprint import fingerprint

TRAIN, QUERIES = 24, 6
META = TaskMeta(
    name="waves",
    version=1,
    summary="24 waves",
    model="random",
    dataset="drawn with numpy",
    license="Apache-2.0",
    train_items=TRAIN,
    memory="1 GB",
)


def waves(images, seeds=None) -> Items:
    groups = [str(index % 3) for index in range(len(images))]
    return Items(images, groups, [""] * len(images), fingerprint([images.tolist(), groups]), seeds)


class Waves(Task[Options]):
    """The sound task; relatives replace its model, or what it makes of items."""

    meta = META
    Options = Options
    model: ClassVar[type[DDPMDenoiser]] = DDPMDenoiser

    def open(self, workspace: Workspace) -> OpenWaves:
        return OpenWaves(self, workspace)

    def trained_on(self, items: Items) -> Items:
        return items

    def asked(self, items: Items) -> Items:
        return items


class OpenWaves(OpenTask):
    def __init__(self, task: Waves, workspace: Workspace) -> None:
        self.task, self.workspace = task, workspace

    @cached_property
    def train(self) -> Items:
        return self.task.trained_on(waves(drawn_images(TRAIN)))

    @cached_property
    def queries(self) -> Items:
        seeds = list(range(QUERIES))
        return self.task.asked(waves(self.denoiser.generate([""] * QUERIES, seeds), seeds))

    @cached_property
    def denoiser(self) -> DDPMDenoiser:
        return type(self.task).model(network_folder(self.workspace.cache), self.workspace.device, sampling_steps=4)


def with_model(**methods: Any) -> type[Waves]:
    """The task with a model some of whose methods are others."""
    return type("Waves", (Waves,), {"model": type("Broken", (DDPMDenoiser,), methods), "__module__": __name__})


def with_task(**attributes: Any) -> type[Waves]:
    """The task with other methods of its own."""
    return type("Waves", (Waves,), {**attributes, "__module__": __name__})


def with_opened(**attributes: Any) -> type[Waves]:
    """The task with another open task."""
    opened = type("Open", (OpenWaves,), attributes)
    return with_task(open=lambda self, workspace: opened(self, workspace))


def with_train(change: Callable[[Items], Items]) -> type[Waves]:
    return with_task(trained_on=lambda self, items: change(items))


def with_queries(change: Callable[[Items], Items]) -> type[Waves]:
    return with_task(asked=lambda self, items: change(items))


def mean_of_batch(self, noisy, t, conditioning):
    predicted = DDPMDenoiser.predict(self, noisy, t, conditioning)
    return predicted - predicted.mean(0)


def in_train_mode(self, *arguments, **options):
    DDPMDenoiser.__init__(self, *arguments, **options)
    self.module.train()


def with_dropout(self, noisy, t, conditioning):
    return torch.nn.functional.dropout(DDPMDenoiser.predict(self, noisy, t, conditioning), 0.5, training=True)


def noisy_latents(self, images, prompts, image_range):
    encoded = DDPMDenoiser.encode(self, images, prompts, image_range)
    return Encoded(encoded.latents + torch.randn(encoded.latents.shape))


def one_number_an_item(self, latents, noise, t):
    return noise.mean((1, 2, 3), keepdim=True)


def noise_of_global_generator(self, prompts, seeds):
    return np.random.randint(0, 256, (len(seeds), *self.image_shape), np.uint8)


def noise_of_first_seed(self, prompts, seeds):
    return np.random.default_rng(seeds[0]).integers(0, 256, (len(seeds), *self.image_shape), np.uint8)


def floats(self, prompts, seeds):
    return DDPMDenoiser.generate(self, prompts, seeds) / 255


def one_seed(self, prompts, seeds):
    return DDPMDenoiser.generate(self, prompts, [0] * len(seeds))


def before_the_first(self, grid: TimestepGrid):
    return (-1,) if grid.kind == "single" else DDPMDenoiser.timesteps(self, grid)


def one_more(self, grid: TimestepGrid):
    return (*DDPMDenoiser.timesteps(self, grid), 0)


def frozen(self, which):
    return {name: parameter.requires_grad_(False) for name, parameter in self.module.named_parameters()}


def copies(self, which):
    return dict(copy.deepcopy(self.module).named_parameters())


def short(self, prompts, seeds):
    return DDPMDenoiser.trajectory(self, prompts, seeds)[:, 1:]


class ManyNames(Waves):
    """Its fingerprint differs from process to process."""

    def trained_on(self, items):
        return replace(items, fingerprint=str(hash("waves")))


class OtherOutline(DDPMDenoiser):
    fingerprint = "other"

    def __setattr__(self, name, value):
        super().__setattr__(name, "other" if name == "fingerprint" else value)


def described(self):
    return ModelDescription(OtherOutline(network_folder(self.workspace.cache), torch.device("meta"), 4))


def fewer(self):
    return ItemsOutline(1, "x", lambda row: [])


counter = itertools.count()

BROKEN: dict[str, tuple[type[Waves], str, str]] = {
    "batch-mean": (with_model(predict=mean_of_batch), "batches", "beside 2 other"),
    "train-mode": (with_model(__init__=in_train_mode), "mode", "train mode"),
    "dropout": (with_model(predict=with_dropout), "repeats", "something else each time"),
    "drawn-latents": (with_model(encode=noisy_latents), "repeats", "something else each time"),
    "broadcasts": (with_model(target=one_number_an_item), "shapes", "target() gives [3, 1, 1, 1]"),
    "global-noise": (with_model(generate=noise_of_global_generator), "generate", "drawn again"),
    "first-seed": (with_model(generate=noise_of_first_seed), "generate", "drawn beside another"),
    "no-seed": (with_model(generate=one_seed), "generate", "give the same picture"),
    "float-pictures": (with_model(generate=floats), "items", "queries are float64"),
    "early": (with_model(timesteps=before_the_first), "timesteps", "gives -1"),
    "too-many": (with_model(timesteps=one_more), "timesteps", "gives 6 timesteps"),
    "frozen": (with_model(attributed_parameters=frozen), "parameters", "are frozen"),
    "copies": (with_model(attributed_parameters=copies), "parameters", "not of denoiser.module"),
    "no-grad": (with_model(predict=torch.no_grad()(DDPMDenoiser.predict)), "parameters", "no gradient reaches"),
    "short": (with_model(trajectory=short), "trajectory", "gives [1, 3, 3, 8, 8]"),
    "same-checkpoint": (
        with_model(checkpoints=lambda self: ("step-1",), _load=lambda self, name: copy.deepcopy(self.module)),
        "checkpoints",
        "gives the final weights",
    ),
    "float-images": (with_train(lambda items: replace(items, images=items.images / 255)), "items", "float64"),
    "scaled": (with_train(lambda items: replace(items, images=items.images // 255)), "items", "above 1"),
    "groups-short": (with_train(lambda items: replace(items, groups=items.groups[1:])), "items", "23 groups"),
    "numbers": (with_train(lambda items: replace(items, groups=[1] * TRAIN)), "items", "is 1 (int)"),
    "gray": (with_train(lambda items: replace(items, images=items.images[..., :1])), "items", "image_shape"),
    "digests": (with_train(lambda items: replace(items, digests=["0" * 32] * TRAIN)), "items", "digests"),
    "promises": (with_task(meta=META.model_copy(update={"train_items": 25})), "items", "meta promises 25"),
    "strange-group": (with_queries(lambda items: replace(items, groups=["9"] * QUERIES)), "groups", "query 0, '9'"),
    "no-group": (with_queries(lambda items: replace(items, groups=["", *items.groups[1:]])), "groups", "1 of 6"),
    "no-groups": (
        with_task(
            trained_on=lambda self, items: replace(items, groups=[""] * TRAIN),
            asked=lambda self, items: replace(items, groups=[""] * QUERIES),
        ),
        "main-metric",
        "detection-rate@10 gives no value for these groups and items; no metric does",
    ),
    "groups-of-queries": (
        with_train(lambda items: replace(items, groups=[""] * TRAIN)),
        "groups",
        "the training items have no group",
    ),
    "one-group": (
        with_task(
            trained_on=lambda self, items: replace(items, groups=["a"] * TRAIN),
            asked=lambda self, items: replace(items, groups=["a"] * QUERIES),
        ),
        "groups",
        "any ranking is perfect",
    ),
    "prompts": (with_train(lambda items: replace(items, prompts=["wave"] * TRAIN)), "prompts", "its model takes none"),
    "doubled-seed": (with_queries(lambda items: replace(items, seeds=[0] * QUERIES)), "seeds", "queries 0, 1, 2"),
    "doubled-picture": (
        with_queries(lambda items: replace(items, images=items.images[[0, 0, 2, 3, 4, 5]])),
        "seeds",
        "queries 0, 1 are of one picture",
    ),
    "other-seeds": (
        with_queries(lambda items: replace(items, seeds=[seed + 50 for seed in items.seeds])),
        "generate",
        "not the picture that generate draws of its seed 50",
    ),
    "no-metric": (
        with_task(meta=META.model_copy(update={"main_metric": "detection-rate"})),
        "main-metric",
        "gives no value",
    ),
    "unknown-metric": (
        with_task(meta=META.model_copy(update={"main_metric": "wave-rate"})),
        "main-metric",
        "no registered metric",
    ),
    "described-otherwise": (with_opened(model_description=property(described)), "description", "fingerprint other"),
    "outline": (with_opened(query_outline=property(fewer)), "description", "promises 1 queries"),
    "counts": (
        with_train(lambda items: replace(items, fingerprint=str(next(counter)))),
        "fingerprints",
        "training set's fingerprint",
    ),
    "set": (with_task(state=lambda self: {"a"}), "fingerprints", "not JSON serializable"),
}
"""Name -> the task, the check that it fails, and what the line says."""
