"""One image added to 10,000, and 1,000 new queries against 10,000 cached rows, through `attrbench.attribute`.

Seconds are those of the processor, of all threads, so that other work on the machine does not count; but for one row.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import attrbench
import attrbench_tasks
from tests.benchmarks.timing import Figure

ITEMS, QUERIES, SIDE = 10_000, 1_000, 8
METHOD = "dmin:timesteps=2,v=512"
TASK = """[task]
name = "mine"
[model]
model = "{model}"
[train]
path = "{train}"
[queries.images]
path = "{train}"
limit = 1
"""


class Bench:
    """A folder with images, a task file over them, and caches.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.train = _images(root / "train", ITEMS, 0)
        self.asked = sorted(_images(root / "asked", QUERIES, 1).iterdir())
        model = Path(attrbench_tasks.__file__).parent / "weights" / "digits-mini"
        self.task = root / "mine.toml"
        self.task.write_text(TASK.format(model=model, train=self.train))

    def ask(self, cache: str, count: int, k: int = 20) -> Any:
        """Attribute the first `count` pictures."""
        return attrbench.attribute(
            METHOD, self.task, images=self.asked[:count], k=k, cache=self.root / cache, progress=False
        )

    def bytes(self, cache: str) -> int:
        """Bytes of all files of a cache."""
        return sum(path.stat().st_size for path in (self.root / cache).rglob("*") if path.is_file())


def added() -> list[Figure]:
    """Time and bytes of one image added to 10,000 against the first pass; scores against those of a fresh cache."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        first, _ = _cpu(lambda: bench.ask("grown", 1, ITEMS))
        bytes_first = bench.bytes("grown")
        again, _ = _cpu(lambda: bench.ask("grown", 1, ITEMS))
        _image(bench.train / "05000-added.png", np.random.default_rng(2))
        more, grown = _cpu(lambda: bench.ask("grown", 1, ITEMS + 1))
        bytes_more = bench.bytes("grown") - bytes_first
        fresh = bench.ask("fresh", 1, ITEMS + 1).ranking
        return [
            _figure("one image added", more, "s", "first pass", first, "<= 0.1"),
            _figure("nothing added", again, "s", "first pass", first),
            _figure("bytes of one image added", bytes_more, "B", "first pass", bytes_first, "<= 0.05"),
            _figure("largest difference of a score", _apart(grown.ranking, fresh), "", "fresh cache", 1.0, "<= 1e-5"),
        ]


def queries() -> list[Figure]:
    """Queries a second against 10,000 cached rows, of 1,000 new pictures and of the same once more."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        bench.ask("cache", 1)
        opening, _ = _cpu(lambda: bench.ask("cache", 1))
        began = time.perf_counter()
        new, _ = _cpu(lambda: bench.ask("cache", QUERIES))
        wall = time.perf_counter() - began
        known, _ = _cpu(lambda: bench.ask("cache", QUERIES))
        cores = f"{torch.get_num_threads()} threads"
        return [
            _figure("new queries a second of processor time", QUERIES / new, "1/s", "of one query", 1 / opening),
            _figure("known queries a second of processor time", QUERIES / known, "1/s", "new", QUERIES / new),
            _figure(
                f"new queries a second of the clock, {cores}", QUERIES / wall, "1/s", "of processor", QUERIES / new
            ),
        ]


def _apart(found: Any, expected: Any) -> float:
    """Return the largest difference of an item's scores, relative to the largest score."""
    scores = [np.zeros(ITEMS + 1) for _ in range(2)]
    for row, ranking in zip(scores, (found, expected), strict=True):
        row[ranking.ids[0]] = ranking.scores[0]
    return float(np.abs(scores[0] - scores[1]).max() / np.abs(scores[1]).max())


def _figure(what: str, value: float, unit: str, against: str, reference: float, bound: str = "") -> Figure:
    return Figure(what, value, unit, against, reference, value / reference, bound)


def _cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


def _images(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        _image(folder / f"{number:05d}.png", rng)
    return folder


def _image(path: Path, rng: np.random.Generator) -> None:
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(path)
