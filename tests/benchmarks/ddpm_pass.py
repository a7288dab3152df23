"""A gradient pass over 64 items of ddpm-mnist-mini; prints what it kept and its peak memory."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

from attrbench.contracts.feature import Engine
from attrbench.contracts.gradient_source import GradientSource, Sketch
from attrbench.contracts.task import Workspace
from attrbench.evaluation.memory import Peaks, reset_peaks
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.gradient_pass import GradientPass, Split
from attrbench.store.shards import FeatureStore, Unit
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards
from attrbench_tasks.minis.ddpm_mnist import DDPMMnistMini


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        opened = DDPMMnistMini(DDPMMnistMini.Options()).open(Workspace(Path(folder), torch.device("cpu")))
        feature = GradientRows(source=GradientSource(), sketch=Sketch(length=4096))
        work = GradientPass(feature.source, opened.denoiser, Split("train", opened.train), Engine())
        opened.denoiser.module(torch.zeros(1, 1, 28, 28), 0)
        reset_peaks(opened.denoiser.device)
        before = Peaks.now(opened.denoiser.device).resident
        store = FeatureStore(Path(folder), {"benchmark": "pass"})
        work.compute(Unit(0, 64), {feature: store})
        figures = {
            "before": before,
            "peak": Peaks.now(opened.denoiser.device).resident,
            "whole": 4 * 64 * 5 * work.gradients.total,
            "kept": StoredRows(StoredShards(store, Unit(0, 64)), None, {"": work.gradients.total}).row_bytes,
        }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
