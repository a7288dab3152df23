"""What the campaign's commands work on: a tiny model, images, task files, and a task that can be trained."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attrbench.evaluation.provenance import code_digest
from attrbench.plugins.registry import Plugin, registry
from tests.data.test_tables import table
from tests.ground_truth.tiny_trainable import OpenTiny, TinyTrainable
from tests.registering import plugin_of
from tests.taskfile.making import write_task
from tests.tasks.captioned import write_images

ITEMS = 12
SOURCES = ("magic-cards", "midjourney", "diffusiondb", "lego-sets", "pokemon", "flowers")


class Trained(TinyTrainable):
    """A task that is trained in a moment; its model lies in `folder`, outside of the cache."""

    meta = TinyTrainable.meta.model_copy(update={"name": "campaign-trainable"})
    folder: Path

    def open(self, workspace):
        return OpenTrained(self, workspace)


class OpenTrained(OpenTiny):
    @cached_property
    def denoiser(self):
        return self._task.trained(Trained.folder, self._workspace)


def register(folder: Path) -> None:
    """Load all plugins, and register the task, whose model lies below `folder`; hash the code once for all trials."""
    Trained.folder = folder / "trained"
    plugin = plugin_of(tasks=[Trained])
    registry().load(Plugin("campaign", "attrbench-tests", "1"), lambda: plugin)
    code_digest("attrbench_methods", "attrbench_tasks", "tests")


def write_inputs(folder: Path) -> None:
    """Write everything; to be done in a process of its own, because it computes."""
    _write_model(folder / "model")
    write_images(folder / "images", ["even", "odd"] * (ITEMS // 2), size=(8, 8))
    pixels = np.random.default_rng(5).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    (folder / "table").mkdir()
    table(ITEMS).rename_column("kind", "group").to_parquet(folder / "table" / "train.parquet")
    for name, source in (("folder", "images"), ("table", "table")):
        write_task(
            folder / f"{name}.toml",
            task={"name": f"own-{name}"},
            model={"model": "model", "sampling_steps": 2},
            train={"path": source},
            queries={"seeds": "0-1", "groups": ["even", "odd"]},
            tuning={"seeds": "5-6", "groups": ["even", "odd"]},
        )
    for place, source in enumerate(SOURCES):
        write_images(folder / "sources" / source, [None] * 2, size=(8, 8), seed=place, word=source)
    Trained(Trained.Options()).train(None, None, folder / "trained", torch.device("cpu"), lambda line: None)


def _write_model(folder: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8,),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=1000)).save_pretrained(folder)
