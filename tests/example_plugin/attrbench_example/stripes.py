"""The task `stripes-mini`: striped images in three colors, and a network that was never trained."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from attrbench.contracts.options import Options
from attrbench.contracts.task import Items, OpenTask, Task, TaskMeta, Workspace
from attrbench_example.left_out_color import TrainedWithoutGroups

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attrbench.models.families.ddpm import DDPMDenoiser

GROUPS = ("red", "green", "blue")
SIDE = 8
TRAIN_PER_GROUP = 20
TRAIN_SEED = 0
QUERY_SEED = 1
NETWORK_SEED = 0


class StripesMini(Task[Any]):
    """20 images a color for training, a few more as queries."""

    meta = TaskMeta(
        name="stripes-mini",
        version=1,
        summary="60 striped images of 8x8 pixels in three colors; an example, done in seconds",
        model="diffusers UNet2DModel (8, 16), randomly initialized",
        dataset="drawn with numpy",
        license="Apache-2.0",
        train_items=len(GROUPS) * TRAIN_PER_GROUP,
        memory="1 GB",
        notes="The network is untrained, and the queries are drawn, not generated: gradient scores mean nothing.",
    )

    class Options(Options):
        """Options of `stripes-mini`."""

        queries_per_group: int = Field(4, ge=1, le=20)
        """Query images of each color."""

    def open(self, workspace: Workspace) -> OpenStripes:
        """Nothing needs to be there: images are drawn and the network is made on first use."""
        return OpenStripes(self.options.queries_per_group, workspace)


class OpenStripes(OpenTask, TrainedWithoutGroups):
    """The open task; each part is made on first use."""

    def __init__(self, queries_per_group: int, workspace: Workspace) -> None:
        self._queries_per_group = queries_per_group
        self._workspace = workspace

    @cached_property
    def train(self) -> Items:
        """The training images."""
        return striped_images(TRAIN_PER_GROUP, TRAIN_SEED)

    @cached_property
    def queries(self) -> Items:
        """More images of the same kind."""
        return striped_images(self._queries_per_group, QUERY_SEED)

    @cached_property
    def denoiser(self) -> DDPMDenoiser:
        """The untrained network."""
        from attrbench.models.families.ddpm import DDPMDenoiser

        return DDPMDenoiser(untrained_pipeline(self._workspace.cache), self._workspace.device)

    def losses_without(self, group: str | None) -> NDArray[np.float64]:
        """Return each query's squared distance to the nearest mean color that a model of colors has learned.

        This model is not the network: it knows the mean colors of the items that it was trained on, and nothing else.
        """
        kept = [index for index, other in enumerate(self.train.groups) if other != group]
        learned = self.train.images[kept].mean(axis=(1, 2)) / 255
        colors = self.queries.images.mean(axis=(1, 2)) / 255
        distances = ((colors[:, None] - learned[None]) ** 2).sum(axis=2)
        nearest: NDArray[np.float64] = distances.min(axis=1)
        return nearest


def striped_images(per_group: int, seed: int) -> Items:
    """Stripes of random width, direction, offset and brightness: `per_group` images of each color, group by group."""
    import numpy as np

    rng = np.random.default_rng(seed)
    images = np.zeros((len(GROUPS) * per_group, SIDE, SIDE, len(GROUPS)), np.uint8)
    for index, image in enumerate(images):
        width, offset, across = int(rng.integers(1, 4)), int(rng.integers(0, SIDE)), bool(rng.integers(2))
        lit = (np.arange(SIDE) + offset) // width % 2 == 0
        stripes = np.broadcast_to(lit if across else lit[:, None], (SIDE, SIDE))
        image[..., index // per_group] = stripes * rng.integers(128, 256)
        image += rng.integers(0, 32, image.shape, np.uint8) * (image < 224)
    groups = [group for group in GROUPS for _ in range(per_group)]
    digest = hashlib.sha256(images.tobytes() + " ".join(groups).encode()).hexdigest()
    return Items(images, groups, [""] * len(images), digest)


def untrained_pipeline(cache: Path) -> Path:
    """A folder as `DDPMPipeline.save_pretrained` writes it, made on first use; renamed into place when whole."""
    folder = cache / f"stripes-mini-network-{NETWORK_SEED}"
    if folder.is_dir():
        return folder
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(NETWORK_SEED)
        network = UNet2DModel(
            sample_size=SIDE,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
        )
    cache.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix="stripes-mini-", dir=cache))
    DDPMPipeline(unet=network.eval(), scheduler=DDPMScheduler()).save_pretrained(str(part), safe_serialization=True)
    try:
        part.rename(folder)
    except OSError:  # another process was faster; its folder holds the same network
        shutil.rmtree(part)
    return folder
