"""One stage of the benchmark `million` in a process of its own; prints its seconds, its peak memory and more as JSON.

Rows are synthetic: what a gradient shares with others is drawn from few directions of falling weight, and the rest is
noise of its own, so that inner products spread as widely as those of real rows.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from attrbench.cli.cache_command import ls
from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.gradient_source import GradientSource, Sketch
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import QueryRows
from attrbench.search.exact import ExactSearch
from attrbench.search.faiss_index import FaissSearch
from attrbench.store.checksums import seal_path
from attrbench.store.encoding import encode_rows
from attrbench.store.item_store import ItemStore
from attrbench.store.shards import Timing, Unit, units
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards

STEPS, LENGTH, K, QUERIES = 5, 4_096, 100, 20
FEATURE = GradientRows(source=GradientSource(), sketch=Sketch(length=LENGTH))
DIRECTIONS, SHARED = 64, 0.5
"""Number of directions that items share, and their part of a row's squared norm."""

Figures = dict[str, Any]


class Place:
    """The store of so many synthetic rows below a folder.

    Args:
        folder: the cache.
        count: number of rows.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count, self.all = folder, count, Unit(0, count)
        self._directions = np.random.default_rng(0).standard_normal((DIRECTIONS, STEPS * LENGTH), np.float32)
        weights = 1 / np.arange(1, DIRECTIONS + 1)
        self._directions *= np.sqrt(SHARED * weights / weights.sum())[:, None].astype(np.float32)

    def store(self) -> ItemStore:
        """Return the store as a new process sees it."""
        keys = [f"{item:024x}" for item in range(self.count)]
        return ItemStore(self.folder, {"benchmark": "million"}, keys, summary="synthetic rows", kind="gradient rows")

    def rows(self) -> StoredRows:
        """Return the rows, opened as a run opens them."""
        store = self.store()
        assert not store.lacks(self.all)
        return StoredRows(StoredShards(store, self.all), None, {"": LENGTH})

    def synthetic(self, count: int, seed: int) -> NDArray[np.float32]:
        """Return unit-norm rows, [count, T, v]."""
        rng = np.random.default_rng([1, seed])
        rows = rng.standard_normal((count, STEPS * LENGTH), np.float32) * np.float32((1 - SHARED) ** 0.5)
        rows += rng.standard_normal((count, DIRECTIONS), np.float32) @ self._directions
        rows = rows.reshape(count, STEPS, LENGTH)
        unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=2, keepdims=True)
        return unit

    def write(self, store: ItemStore, unit: Unit) -> None:
        """Write the rows of one shard."""
        count = unit.last - unit.first
        arrays = encode_rows(self.synthetic(count, unit.first), "int8")
        store.write(unit, arrays | {"norms": np.ones((count, STEPS), np.float32)}, Timing([0.1] * count, 1))

    def queries(self) -> QueryFeatures:
        """Return queries of the same distribution."""
        rows = self.synthetic(QUERIES, 2**40)
        return QueryFeatures(np.arange(QUERIES), {FEATURE: QueryRows(rows, np.ones((QUERIES, STEPS), np.float32))})


def fill(place: Place) -> Figures:
    """Write all shards, as jobs do, and note which are whole, as a run does before it reads them."""
    store = place.store()
    for unit in units(place.count):
        place.write(store, unit)
    store.pieces(place.all)
    return {}


def opened(place: Place) -> Figures:
    """Open the store: find every row, and map the first shard."""
    place.rows()
    return {}


def resumed(place: Place) -> Figures:
    """Find the one shard that is missing, shard by shard as a plan does, and write it."""
    lost = units(place.count)[place.count // 128]
    path = place.store().path(lost)
    path.unlink()
    seal_path(path).unlink()
    started, store = time.perf_counter(), place.store()
    missing = [part for unit in units(place.count) for part in store.missing(unit)]
    seconds = time.perf_counter() - started
    assert missing == [lost]
    place.write(store, lost)
    store.pieces(place.all)
    return {"seconds": seconds}


def listed(place: Place) -> Figures:
    """List the cache."""
    with contextlib.redirect_stdout(io.StringIO()):
        ls(cache=place.folder, as_json=True)
    return {}


def recorded(place: Place) -> Figures:
    """Put together what a record says of the rows: seconds, bytes, gradients that were not finite, storage error."""
    store = place.store()
    store.pieces(place.all)
    started, shards = time.perf_counter(), StoredShards(store, place.all)
    assert shards.item_seconds().sum() > 0 and not shards.nonfinite() and shards.bytes and shards.row_error() >= 0
    return {"seconds": time.perf_counter() - started}


def indexed(place: Place, index: str, nprobe: str, rerank: str) -> Figures:
    """Build an index over the rows, shard by shard."""
    rows = place.rows()
    started = time.perf_counter()
    return {"bytes": _search(place, rows, index, nprobe, rerank).size().index, "seconds": time.perf_counter() - started}


def asked(place: Place, index: str, nprobe: str, rerank: str) -> Figures:
    """Load the index, and ask it one query after the other."""
    started = time.perf_counter()
    search = _search(place, place.rows(), index, nprobe, rerank)
    loading = time.perf_counter() - started
    return {"loading": loading, **_ask(search.top, place)}


def scanned(place: Place) -> Figures:
    """Score every row exactly, for one query after the other."""
    return _ask(ExactSearch(place.rows(), FEATURE, normalize=True).top, place)


def _search(place: Place, rows: StoredRows, index: str, nprobe: str, rerank: str) -> FaissSearch:
    return FaissSearch(
        rows, FEATURE, True, index, int(nprobe) or None, int(rerank), place.folder / "methods" / "dmin", "synthetic"
    )


def _ask(top: Callable[[QueryFeatures, int], Any], place: Place) -> Figures:
    queries, seconds, ids = place.queries(), [], []
    for number in range(QUERIES):
        started = time.perf_counter()
        ids.append(top(queries.query(number), K).ids[0].tolist())
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds), "first": seconds[0], "slowest": max(seconds), "ids": ids}


class PeakMemory:
    """The peak of this process's own memory while it works, looked at every 20 ms.

    Pages of mapped files don't count: the system drops them when it needs the memory.
    """

    def __init__(self) -> None:
        self.bytes = self.before = _own_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.bytes = max(self.bytes, _own_bytes())

    def stop(self) -> int:
        """Return the peak in bytes."""
        self._done.set()
        self._thread.join()
        return max(self.bytes, _own_bytes())


def _own_bytes() -> int:
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


STAGES: dict[str, Callable[..., Figures]] = {
    "fill": fill,
    "open": opened,
    "resume": resumed,
    "list": listed,
    "record": recorded,
    "index": indexed,
    "query": asked,
    "exact": scanned,
}


def main() -> None:
    """Does the stage that the arguments name, on a folder and a number of rows."""
    stage, folder, count, *options = sys.argv[1:]
    place = Place(Path(folder), int(count))
    memory, started = PeakMemory(), time.perf_counter()
    found = STAGES[stage](place, *options)
    seconds = time.perf_counter() - started
    sys.stdout.write(json.dumps({"seconds": seconds, "memory": memory.stop()} | found) + "\n")


if __name__ == "__main__":
    main()
