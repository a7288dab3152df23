"""SD 3 Medium's transformer at its true size, random weights: sketches of one (sample, timestep), time and peak memory.

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
from torch import nn

from attrbench.contracts.computation import Engine
from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.gradient_source import GradientSource, Sketch, SketchForm, TimestepGrid
from attrbench.contracts.task import Items
from attrbench.evaluation.memory import Peaks, reset_peaks
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.gradient_pass import GradientPass, Split
from attrbench.gradients.samples import NoisySamples
from attrbench.models.config import ModelConfig
from attrbench.models.loading import load_denoiser
from attrbench.store.shards import FeatureStore, Unit

LENGTHS = (2**20, 2**16, 2**12)
FORMS: tuple[SketchForm, ...] = ("rotation", "factored")
SOURCE = GradientSource(grid=TimestepGrid(steps=1))
MODEL = ModelConfig(
    model="stabilityai/stable-diffusion-3-medium-diffusers",
    weights="random",
    resolution=256,
    gradient_checkpointing=True,
)
ITEMS = Items(np.zeros((2, 256, 256, 3), np.uint8), ["", ""], ["a picture", "another"], "two")


def main() -> None:
    started = time.perf_counter()
    denoiser = load_denoiser(MODEL, torch.device("cpu"))
    figures = {
        "build_seconds": time.perf_counter() - started,
        "parameters": sum(p.numel() for p in denoiser.module.parameters()),
        "attributed": sum(p.numel() for p in denoiser.attributed_parameters("attributed").values()),
        "weights_bytes": sum(p.numel() * p.element_size() for p in denoiser.module.parameters()),
    }
    for form in FORMS:
        figures |= {f"{form} {name}": value for name, value in sketched(denoiser, form).items()}
    figures["plain_seconds"] = plain(denoiser)
    sys.stdout.write(json.dumps(figures) + "\n")


def sketched(denoiser: Denoiser, form: SketchForm) -> dict[str, float]:
    """Peak memory of a first sample, with the checks before it, and the seconds of a second one."""
    features = [GradientRows(source=SOURCE, sketch=Sketch(length=length, form=form)) for length in LENGTHS]
    reset_peaks(denoiser.device)
    with tempfile.TemporaryDirectory() as folder:
        stores = {feature: FeatureStore(Path(folder), {"v": feature.sketch.length}, 1) for feature in features}
        work = GradientPass(SOURCE, denoiser, Split("train", ITEMS), Engine(), projection=features[0].projection)
        work.compute(Unit(0, 1), stores)
        started = time.perf_counter()
        work.compute(Unit(1, 2), stores)
        seconds = time.perf_counter() - started
        norm, *others = [float(store.read(Unit(1, 2))["norms"][0, 0]) for store in stores.values()]
        assert others == [norm, norm]
    return {"seconds": seconds, "peak_resident": Peaks.now(denoiser.device).resident, "norm": norm}


def plain(denoiser: Denoiser) -> float:
    """Seconds of a plain forward and backward of one sample, whose weight gradients are dropped one by one."""
    samples = NoisySamples(SOURCE, denoiser, Split("train", ITEMS))

    def drop(parameter: nn.Parameter) -> None:
        parameter.grad = None

    handles = [p.requires_grad_(True).register_post_accumulate_grad_hook(drop) for p in samples.parameters.values()]
    encoded, zero = samples.encode(1, 2), torch.zeros(1, dtype=torch.long)
    started = time.perf_counter()
    samples.gradients().outputs(samples.batch(1, encoded, zero, zero)).sum().backward()
    seconds = time.perf_counter() - started
    for handle in handles:
        handle.remove()
    return seconds


if __name__ == "__main__":
    main()
