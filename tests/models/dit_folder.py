"""A tiny class-conditional DiT with random weights, as a folder that `DiTPipeline.save_pretrained` writes."""

import json
from pathlib import Path

import torch

LABELS = {0: "red", 1: "green, lime", 2: "blue"}


def write_dit(folder: Path, learned_variance: bool = False) -> Path:
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    from tests.models.pipelines import autoencoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8 if learned_variance else 4,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=len(LABELS),
        )
        vae = autoencoder(4)
    DiTPipeline(transformer, vae, DDIMScheduler()).save_pretrained(str(folder))
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {str(key): name for key, name in LABELS.items()}  # as in the folders on the hub
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
