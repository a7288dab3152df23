"""The exact Gram matrix of 256 items of digits-mini, against its least work and against storing the gradients."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from attrbench.contracts.feature import Engine
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.contracts.task import Workspace
from attrbench.evaluation.requests import request_tasks
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.gradients.gram_pass import GramPass, Side
from attrbench.gradients.samples import Split
from attrbench.gradients.sinks import NormSink
from attrbench.plugins.registry import registry
from attrbench.search.gram_blocks import gram_blocks
from attrbench.store.shards import FeatureStore, Unit, shard_items, units
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards
from tests.benchmarks.timing import Figure, paired

ITEMS, STEPS = 256, 5
SOURCE = GradientSource(output="squared-norm", grid=TimestepGrid(kind="uniform", steps=STEPS), noise="per-item")


def exact() -> list[Figure]:
    """Time against one sweep with nothing kept and one product in float64, and against whole rows on disk; bytes."""
    with tempfile.TemporaryDirectory() as folder:
        (task,) = request_tasks(registry(), ["digits-mini"])
        opened = task.task.open(Workspace(Path(folder), torch.device("cpu")))
        split, engine, denoiser = Split("train", opened.train), Engine(), opened.denoiser
        total = sum(p.numel() for p in denoiser.attributed_parameters("attributed").values())
        whole = np.random.default_rng(0).normal(size=(ITEMS, total)).astype("f4")
        stores: list[FeatureStore] = []

        def added_up() -> None:
            work = GramPass(denoiser, Side(SOURCE, split, ITEMS), [], False, engine)
            work.compute(work.start(False), lambda sums: None, lambda: None)

        def least() -> None:
            work = GradientPass(SOURCE, denoiser, split, engine)
            for unit in units(ITEMS):
                work.run(unit, [NormSink()], lambda items, steps, outputs: None)
            wide = whole.astype("f8")
            wide @ wide.T

        def stored() -> None:
            feature = GradientRows(source=SOURCE, sketch=None, timesteps="mean")
            store = FeatureStore(Path(folder), {"run": len(stores)}, shard_items(4 * total))
            stores.append(store)
            work = GradientPass(SOURCE, denoiser, split, engine)
            for unit in units(ITEMS):
                work.compute(unit, {feature: store})
            rows = StoredRows(StoredShards(store, Unit(0, ITEMS)), None, {"": total})
            gram_blocks(rows, raw=True)

        what = f"exact Gram matrix, {ITEMS} items of digits-mini"
        sweep = paired(what, added_up, "norms only, one product", least, "<= 1.5", runs=3)
        disk = paired(what, added_up, "whole rows on disk", stored, "<= 1", runs=3)
    kept, rows = 8 * ITEMS**2, 4 * ITEMS * total
    return [sweep, disk, Figure("what it leaves on disk", kept, "B", "whole rows", rows, kept / rows, "<= 0.1")]
