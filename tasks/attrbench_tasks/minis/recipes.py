"""Training recipes of the text-to-image minis: one autoencoder, one set of text encoders, two bases, fine-tunings.

`prepare` trains what is missing below one folder, in this order, and resumes what was cut off:

    vae/                        the autoencoder
    text_encoder*/ tokenizer*/  the text encoders
    sd14/ sd3/                  the base networks, pre-trained on the base part
    classifier.*                of the six families, for measuring how many pictures show the family asked for
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.models.late import diffusers
from attrbench_tasks.datasets.registry_mix import Captioned, part
from attrbench_tasks.training.classifier import REPORT, ClassifierRecipe, train_classifier
from attrbench_tasks.training.loop import RECIPE_FILE, Progress, Recipe
from attrbench_tasks.training.train_autoencoder import AutoencoderRecipe, latents_of, train_autoencoder
from attrbench_tasks.training.train_text_encoder import TextEncoderRecipe, train_text_encoders
from attrbench_tasks.training.train_text_to_image import (
    EncodedImages,
    Family,
    LoRARecipe,
    TextToImageRecipe,
    text_embeddings,
    train_base,
)

Report = Callable[[str], None]

AUTOENCODER = AutoencoderRecipe(
    vae={
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 32,
        "mid_block_add_attention": False,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    },
    kl_weight=1e-4,
    steps=2_000,
    stop=800,
    batch_size=32,
    learning_rate=1.5e-3,
    warmup=100,
    dtype="float16",
    autocast=True,
)
TEXT_ENCODERS = TextEncoderRecipe(
    vocabulary=2_000,
    length=20,
    clip={
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 64,
    },
    t5={
        "d_model": 128,
        "d_kv": 32,
        "d_ff": 256,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.1,
    },
    image_channels=(32, 48, 64, 96),
    steps=500,
    batch_size=128,
    learning_rate=2e-3,
    warmup=50,
    weight_decay=0.01,
    dtype="float16",
)
BASES: dict[Family, TextToImageRecipe] = {
    "sd14": TextToImageRecipe(
        family="sd14",
        network={
            "sample_size": 16,
            "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 1,
            "block_out_channels": [32, 64, 80],
            "norm_num_groups": 8,
            "attention_head_dim": 4,
            "cross_attention_dim": 64,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        },
        scheduler={  # Stable Diffusion 1.4's
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "set_alpha_to_one": False,
        },
        steps=8_000,
        batch_size=16,
        cooldown=0.25,
        learning_rate=1e-3,
        dtype="float16",
    ),
    "sd3": TextToImageRecipe(
        family="sd3",
        network={
            "sample_size": 16,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 5,
            "attention_head_dim": 32,
            "num_attention_heads": 3,
            "joint_attention_dim": 128,
            "caption_projection_dim": 96,
            "pooled_projection_dim": 128,
            "pos_embed_max_size": 16,
        },
        scheduler={"shift": 1.0},
        steps=8_000,
        batch_size=16,
        cooldown=0.25,
        learning_rate=1e-3,
        dtype="float16",
    ),
}
CLASSIFIER = ClassifierRecipe(
    size=32,
    epochs=80,
    shift=3,
    channels=3,
    classes=6,
    widths=(32, 32),
    edge="copy",
    batch_size=32,
    learning_rate=1e-3,
)


def fine_tuning(base: Family, *, lora: bool) -> TextToImageRecipe:
    """Return the training recipe of a mini's fine-tuning, of the whole network or of a LoRA (rank 4, alpha 8).

    Rank and alpha are those of Table 7 of DMin (arXiv 2412.08637).
    """
    recipe = BASES[base]
    return TextToImageRecipe(
        family=base,
        scheduler=recipe.scheduler,
        steps=1_000 if lora else 1_600,
        batch_size=16,
        learning_rate=1e-3 if lora else 5e-4,
        warmup=50,
        checkpoints=(250, 500, 750) if lora else (),  # those of a whole network are too large to ship
        lora=LoRARecipe() if lora else None,
        dtype="float16",
    )


def prepare(family: Family, folder: Path, device: torch.device, report: Report) -> None:
    """Train what the text-to-image minis share, if missing: autoencoder, text encoders, base network and classifier.

    Args:
        family: which base.
        folder: of the parts.
        device: where to train.
        report: called with a line of progress now and then.
    """
    base = part("base")
    if not (folder / REPORT).is_file():
        seen, unseen = part("base", "tuning"), part("held_out")
        accuracy = train_classifier(
            CLASSIFIER, (seen.images, seen.families), (unseen.images, unseen.families), folder, device
        )
        report(f"classifier: {accuracy:.2%} of {len(unseen)} held-out images right")
    if not (folder / "vae" / RECIPE_FILE).is_file():
        train_autoencoder(
            AUTOENCODER, pixels(base.images), device, progress("vae", AUTOENCODER, folder / "vae", report)
        )
    if not (folder / RECIPE_FILE).is_file():
        told = progress("text encoders", TEXT_ENCODERS, folder, report)
        train_text_encoders(TEXT_ENCODERS, pixels(base.images), base.captions, device, told)
    if not (folder / family / RECIPE_FILE).is_file():
        told = progress(family, BASES[family], folder / family, report)
        train_base(BASES[family], encoded(family, folder, base, device), told)


def encoded(family: Family, folder: Path, items: Captioned, device: torch.device) -> EncodedImages:
    """Return captioned icons as image latents and text embeddings, with the empty prompt's as last."""
    vae = (
        diffusers.AutoencoderKL.from_pretrained(str(folder / "vae"), local_files_only=True)
        .to(device, torch.float32)
        .eval()
    )
    latents = latents_of(vae, pixels(items.images).to(device))
    return EncodedImages(latents, text_embeddings(family, folder, [*items.captions, ""], device))


def pixels(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return [n, H, W, 3] uint8 images as a float tensor [n, 3, H, W] in [-1, 1], the networks' input range."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def progress(name: str, recipe: Recipe, folder: Path, report: Report, every: int = 250) -> Progress:
    """Return a `Progress` that reports a training's steps and losses as lines of text with the trained part's name."""
    return Progress(folder, lambda step, loss: report(f"{name}: step {step} of {recipe.steps}: loss {loss:.4f}"), every)
