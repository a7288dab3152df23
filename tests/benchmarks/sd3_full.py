"""SD 3 Medium's transformer at its true size, random weights: sketches of one (sample, timestep), and the peak memory.

Run as a process of its own (`make bench BENCH=sd3-full`), so that the peak resident set is its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from attrbench.diffusion.denoiser import Denoiser, Encoded
from attrbench.diffusion.noise import gaussian
from attrbench.features import GradientRows, GradientSource, Sketch, TimestepGrid
from attrbench.gradients.collect import GradientPass, Split
from attrbench.gradients.engine import Engine
from attrbench.running.memory import Peaks
from attrbench.store.shards import FeatureStore, Unit
from attrbench.task import Items

LATENT = 32
LENGTHS = (2**20, 2**16, 2**12)


class SD3AtTrueSize(Denoiser):
    """The architecture of stabilityai/stable-diffusion-3-medium with random weights and random conditioning."""

    def __init__(self, layers: int = 24) -> None:
        from diffusers import SD3Transformer2DModel

        with torch.device("meta"):
            module = SD3Transformer2DModel(
                sample_size=128,
                patch_size=2,
                in_channels=16,
                num_layers=layers,
                attention_head_dim=64,
                num_attention_heads=24,
                joint_attention_dim=4096,
                caption_projection_dim=1536,
                pooled_projection_dim=2048,
                out_channels=16,
                pos_embed_max_size=192,
            )
        self.module = module.to_empty(device="cpu").eval()
        generator = torch.Generator().manual_seed(0)
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            tensor.data.uniform_(-0.02, 0.02, generator=generator)
        self.module.enable_gradient_checkpointing()
        self.device = torch.device("cpu")
        self.latent_shape = (16, LATENT, LATENT)
        self.training_steps = 1000
        self.fingerprint = "random"

    def encode(self, images, prompts, image_range):
        count = len(images)
        return Encoded(
            gaussian((count, *self.latent_shape), "latents"),
            {"text": gaussian((count, 333, 4096), "text"), "pooled": gaussian((count, 2048), "pooled")},
        )

    def attributed_parameters(self, which):
        return {name: p for name, p in self.module.named_parameters() if "transformer_blocks" in name}

    def timesteps(self, grid):
        return (500,) * grid.steps

    def noisy(self, latents, noise, t):
        sigma = (t / 1000).reshape(-1, 1, 1, 1)
        return (1 - sigma) * latents + sigma * noise

    def predict(self, noisy, t, conditioning):
        return self.module(noisy, conditioning["text"], conditioning["pooled"], t, return_dict=False)[0]

    def target(self, latents, noise, t):
        return noise - latents

    def generate(self, prompts, seeds):
        raise NotImplementedError


def main() -> None:
    started = time.perf_counter()
    denoiser = SD3AtTrueSize()
    built = time.perf_counter() - started
    before = Peaks.now(denoiser.device).resident
    items = Items(np.zeros((1, 8, 8, 3), np.uint8), [""], [""], "one")
    source = GradientSource(grid=TimestepGrid(steps=1))
    features = [GradientRows(source=source, sketch=Sketch(length=length)) for length in LENGTHS]
    with tempfile.TemporaryDirectory() as folder:
        stores = {feature: FeatureStore(Path(folder), {"v": feature.sketch.length}) for feature in features}
        started = time.perf_counter()
        GradientPass(source, denoiser, Split("train", items), Engine()).compute(Unit(0, 1), stores)
        seconds = time.perf_counter() - started
        norms = [float(store.read(Unit(0, 1))["norms"][0, 0]) for store in stores.values()]
        rows = [float(np.linalg.norm(store.read(Unit(0, 1))["rows"][0, 0])) for store in stores.values()]
    figures = {
        "parameters": sum(p.numel() for p in denoiser.module.parameters()),
        "attributed": sum(p.numel() for p in denoiser.attributed_parameters("all").values()),
        "weights_bytes": sum(p.numel() * p.element_size() for p in denoiser.module.parameters()),
        "build_seconds": built,
        "seconds": seconds,
        "resident_before": before,
        "peak_resident": Peaks.now(denoiser.device).resident,
        "gradient_norms": norms,
        "row_norms": rows,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
