"""`make bench`: ratios, each against a reference measured in the same run. Times alone say more about the machine.

Prints one table; `--json FILE` also writes it. `BENCH=name` (or a name as argument) runs one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Ratio:
    """What was measured, against what, and how many times as long it took (medians)."""

    what: str
    against: str
    seconds: float
    reference_seconds: float
    ratio: float


def paired(
    what: str, work: Callable[[], object], against: str, reference: Callable[[], object], runs: int = 5
) -> Ratio:
    """Runs the two in turn, after one warm-up each, and takes the median of the ratios."""
    work(), reference()
    mine, theirs = [], []
    for _ in range(runs):
        for times, call in ((mine, work), (theirs, reference)):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
    return Ratio(what, against, statistics.median(mine), statistics.median(theirs), ratio)


def gradients() -> list[Ratio]:
    """Per-sample gradients of ddpm-mnist-mini's network, batch 64, one timestep."""
    from attrbench.features import GradientSource
    from attrbench.gradients.collect import GradientPass, Split
    from attrbench.gradients.engine import Engine
    from attrbench.gradients.per_sample import BACKENDS
    from attrbench.task import Workspace
    from attrbench_tasks.ddpm_mnist import DDPMMnistMini

    opened = DDPMMnistMini(DDPMMnistMini.Options()).open(Workspace(Path(tempfile.mkdtemp()), torch.device("cpu")))
    gradient_pass = GradientPass(GradientSource(), opened.denoiser, Split("train", opened.train), Engine())
    encoded = opened.denoiser.encode(opened.train.images[:64], [""] * 64, "model")
    from attrbench.store.shards import Unit

    batch = gradient_pass._batch(Unit(0, 64), encoded, torch.arange(64), torch.zeros(64, dtype=torch.long))
    engine = gradient_pass.gradients

    def plain() -> None:
        opened.denoiser.module.zero_grad()
        engine.outputs(batch).sum().backward()

    def sink(offset: int, rows: torch.Tensor) -> None:
        pass

    results = [paired("per-sample gradients, hooks", lambda: engine(batch, sink), "batched backward", plain)]
    for name in ("vmap", "loop"):
        other = BACKENDS[name](opened.denoiser, engine.parameters, engine.output)
        results.append(
            paired(
                f"per-sample gradients, {name}", lambda other=other: other(batch, sink), "batched backward", plain, 2
            )
        )
    return results


def sketch() -> list[Ratio]:
    """Sketching a batch of gradients of 425,281 numbers."""
    from attrbench.gradients.sketch import Sketcher

    vectors = torch.randn(64, 425_281)

    def work(lengths: list[int]) -> None:
        sketcher = Sketcher(lengths, 0)
        sketcher.start(len(vectors), vectors.dtype, vectors.device)
        sketcher.add(0, vectors)
        for length in lengths:
            sketcher.result(length)

    return [
        paired(
            f"sketch to v={' and '.join(map(str, lengths))}",
            lambda lengths=lengths: work(lengths),
            "torch.sum",
            vectors.sum,
        )
        for lengths in ([4096], [65536, 4096])
    ]


def search() -> list[Ratio]:
    """Exact scores of one query over 2,000 rows of 5 x 4,096 from memory-mapped shards."""
    from attrbench.features import QueryFeatures
    from attrbench.retrieval.exact import ExactSearch
    from attrbench.store.rows import StoredRows
    from attrbench.store.shards import FeatureStore, Timing, units

    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder), {"benchmark": "search"})
        rng = np.random.default_rng(0)
        for unit in units(2000):
            count = unit.last - unit.first
            rows = rng.standard_normal((count, 5, 4096), np.float32)
            store.write(unit, {"rows": rows, "norms": np.ones((count, 5), np.float32)}, Timing([0.0] * count, 1))
        stored = StoredRows(store, 2000)
        query = QueryFeatures(
            np.arange(1), rows=rng.standard_normal((1, 5, 4096), np.float32), norms=np.ones((1, 5), np.float32)
        )
        scorer = ExactSearch(stored, normalise=True)
        matrix = np.concatenate([block.reshape(len(block), -1) for _, block in stored.blocks()])
        return [paired("exact scores of one query", lambda: scorer.scores(query), "sum over the matrix", matrix.sum)]


def startup() -> list[Ratio]:
    """The commands that must answer at once, as whole processes, against a bare interpreter."""
    command = [sys.executable, "-c", "from attrbench.cli.app import main; main()"]
    bare = [sys.executable, "-c", "pass"]

    def call(arguments: list[str]) -> None:
        subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True)

    return [
        paired(f"attrbench {verb}", lambda verb=verb: call([*command, verb]), "python -c pass", lambda: call(bare))
        for verb in ("--help", "list")
    ]


BENCHMARKS = {"gradients": gradients, "sketch": sketch, "search": search, "startup": startup}


def main() -> None:
    """Runs the benchmarks and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", default=os.environ.get("BENCH", "").split(), metavar="NAME")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    results = [ratio for name in arguments.names or BENCHMARKS for ratio in BENCHMARKS[name]()]
    out = sys.stdout
    out.write(f"{'what':<34}{'seconds':>10}   {'against':<22}{'seconds':>10}{'ratio':>9}\n")
    for r in results:
        out.write(f"{r.what:<34}{r.seconds:>10.4f}   {r.against:<22}{r.reference_seconds:>10.4f}{r.ratio:>9.2f}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")


main()
