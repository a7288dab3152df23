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

from attrbench.contracts.computation import Engine
from attrbench.contracts.gradient_source import GradientSource, Sketch, TimestepGrid
from attrbench.contracts.task import Items
from attrbench.evaluation.memory import Peaks
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.gradient_pass import GradientPass, Split
from attrbench.models.config import ModelConfig
from attrbench.models.loading import load_denoiser
from attrbench.store.shards import FeatureStore, Unit

LENGTHS = (2**20, 2**16, 2**12)
SOURCE = ModelConfig(
    model="stabilityai/stable-diffusion-3-medium-diffusers",
    weights="random",
    resolution=256,
    gradient_checkpointing=True,
)


def main() -> None:
    started = time.perf_counter()
    denoiser = load_denoiser(SOURCE, torch.device("cpu"))
    built = time.perf_counter() - started
    before = Peaks.now(denoiser.device).resident
    items = Items(np.zeros((1, 256, 256, 3), np.uint8), [""], ["a picture"], "one")
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
        "attributed": sum(p.numel() for p in denoiser.attributed_parameters("attributed").values()),
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
