"""Task `ddpm-icons-mini`: a small unconditional DDPM on 32x32 RGB icons, a laptop version of `ddpm-cifar10`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.task import TaskMeta
from attrbench_tasks.datasets.registry_mix import FAMILIES, part
from attrbench_tasks.minis.open_ddpm import LabeledImages, MiniDDPMTask
from attrbench_tasks.minis.recipes import CLASSIFIER
from attrbench_tasks.training.classifier import ClassifierRecipe
from attrbench_tasks.training.train_ddpm import DDPMRecipe, halve_weights


class DDPMIconsMini(MiniDDPMTask):
    """Task with a DDPM trained on 1,650 icons of six families; 183 others test the classifier of its queries."""

    meta = TaskMeta(
        name="ddpm-icons-mini",
        version=1,
        summary="DDPM (454k parameters) on 1,650 RGB icons of six families, 32x32; minutes on a laptop",
        model="diffusers UNet2DModel (16, 32, 48), trained by `attrbench train ddpm-icons-mini`",
        dataset="registry_mix32 without its held-out tenth: emoji in two styles, flags, cards, game art, glyphs",
        license="images: MIT, Apache-2.0 and CC0 (docs/reference/tasks.md); weights: Apache-2.0",
        train_items=1650,
        memory="3 GB",
        notes="Queries are DDIM samples (50 steps) of fixed seeds. Their labels come from a classifier that"
        " is right on 91.8% of 183 held-out images; pictures that it gives less than 0.9 to are left out.",
    )

    @staticmethod
    @cache
    def data() -> LabeledImages:
        """Return the icons: 1,650 to train the DDPM and the classifier of its queries, 183 to test the classifier."""
        train, held_out = part("base", "tuning"), part("held_out")
        seen = (train.images, train.families)
        return LabeledImages(seen, seen, (held_out.images, held_out.families), FAMILIES)

    @staticmethod
    def recipes() -> tuple[DDPMRecipe, ClassifierRecipe]:
        """Return the training recipes: about 290 epochs for the DDPM, 80 for the classifier of its queries."""
        ddpm = DDPMRecipe(
            unet={
                "sample_size": 32,
                "in_channels": 3,
                "out_channels": 3,
                "layers_per_block": 1,
                "block_out_channels": [16, 32, 48],
                "norm_num_groups": 8,
                "attention_head_dim": 8,
                "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
                "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
            },
            scheduler={"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
            steps=15_000,
            batch_size=32,
            learning_rate=2e-3,
            checkpoints=(5_000, 10_000),
        )
        return ddpm, CLASSIFIER

    def train(
        self,
        subset: NDArray[np.int64] | None,
        seed: int | None,
        out: Path,
        device: torch.device,
        report: Callable[[str], None],
    ) -> Path:
        """Train the DDPM, on all items or a subset, into a folder, and store its weights in half precision."""
        halve_weights(super().train(subset, seed, out, device, report))
        return out
