"""SIGKILL at random moments, again and again, by two processes at once: the build ends as if nothing had happened."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from attrbench.contracts.record import Record, read_records
from attrbench.contracts.task import Workspace
from attrbench.evaluation.requests import request_tasks
from attrbench.files import sha256_of
from attrbench.plugins.registry import registry
from attrbench.store.cache_index import PART
from attrbench.store.item_store import ItemStore
from attrbench.store.shards import Unit, units
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards
from tests.faults.worker import METHODS, QUERIES, QUERY_SHARD, TASK, TRAIN, TRAIN_SHARD

CHECKOUT = Path(__file__).parents[2]
KILLS = 20
BATCH_SIZES = ("160", "11", "5", "3", "found")
STORES = 2 * len(METHODS)
SHARDS = len(METHODS) * (TRAIN // TRAIN_SHARD + QUERIES // QUERY_SHARD)
PATIENCE = 120
MOMENTS = ("writing", "computing", "writing", "written")  # a kill comes a random time after the build's first of these

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    pid: int
    seconds: float
    name: str
    detail: str


@dataclass
class Builds:
    """Forks builds from one process that has imported everything, and reads what they log."""

    server: subprocess.Popen
    log: Path
    started: list[int] = field(default_factory=list)

    def start(self, root: Path, batch_size: str) -> int:
        self.server.stdin.write(f"{root / 'cache'} {root / 'out'} {batch_size} {self.log}\n")
        self.server.stdin.flush()
        self.started.append(int(self.server.stdout.readline()))
        return self.started[-1]

    def events(self, *pids: int) -> list[Event]:
        text = self.log.read_text() if self.log.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last may be being written
        found = [Event(int(pid), float(at), *rest) for pid, at, *rest in (line.split(" ", 3) for line in lines)]
        return [event for event in found if not pids or event.pid in pids]

    def wait(self, pid: int, *names: str) -> Event | None:
        """The build's first event with one of these names; None where it ended without."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            alive = running(pid)
            for event in self.events(pid):
                if event.name in names:
                    return event
            if not alive:
                return None
            time.sleep(0.001)
        raise AssertionError(f"build {pid} did nothing for {PATIENCE} s")

    def finish(self, *pids: int) -> None:
        for pid in pids:
            assert self.wait(pid, "done"), f"build {pid} failed: {self.complaints()}"
            await_end(pid)

    def complaints(self) -> str:
        """Ends all builds, and gives what they said on standard error."""
        self.stop()
        return self.server.stderr.read()

    def written(self, *pids: int) -> list[str]:
        return [event.detail for event in self.events(*pids) if event.name == "written"]

    def stop(self) -> None:
        for pid in self.started:
            if running(pid):
                os.kill(pid, signal.SIGKILL)
        self.server.kill()
        self.server.wait()


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def await_end(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    builds = Builds(server, tmp_path_factory.mktemp("log") / "events")
    try:
        assert server.stdout.readline() == "ready\n"
        yield builds
    finally:
        builds.stop()


@pytest.fixture(scope="module")
def undisturbed(builds, tmp_path_factory) -> Path:
    """One build from beginning to end."""
    root = tmp_path_factory.mktemp("undisturbed")
    builds.finish(builds.start(root, "found"))
    return root


@pytest.fixture
def empty(undisturbed, tmp_path) -> Path:
    """No shard yet; the generated queries are there, so that builds get to the shards at once."""
    shutil.copytree(undisturbed / "cache" / "queries", tmp_path / "cache" / "queries")
    return tmp_path


def stores(root: Path) -> dict[tuple[str, str], tuple[ItemStore, list[Unit]]]:
    """The complete stores of a cache as a new process sees them, by folder and split, with their shards."""
    (task,) = request_tasks(registry(), [TASK])
    opened = task.task.open(Workspace(root / "cache", torch.device("cpu")))
    splits = {"train": (opened.train.keys[:TRAIN], TRAIN_SHARD), "query": (opened.queries.keys, QUERY_SHARD)}
    found = {}
    for about in sorted((root / "cache" / "features").glob("*/feature.json")):
        description = json.loads(about.read_bytes())["description"]
        for split, (keys, size) in splits.items():
            store = ItemStore(root / "cache", description, keys, size)
            assert store.folder == about.parent
            if not store.lacks(Unit(0, len(keys))):
                found[about.parent.name, split] = store, units(len(keys), size)
    return found


def records(root: Path) -> dict[str, Record]:
    found, problems = read_records(root / "out")
    assert not problems
    assert len(found) == len(METHODS)
    return {record.method.label: record for record in found}


def assert_complete(root: Path) -> None:
    found = stores(root)
    assert len(found) == STORES
    for store, shards in found.values():
        for shard in shards:
            assert store.state(shard) == "done", store.path(shard)
            assert sha256_of(store.path(shard)) == store.sidecar(shard).sha256
            assert store.sidecar(shard).rows == shard.last - shard.first
    paths = {store.path(shard) for store, shards in found.values() for shard in shards}
    assert set((root / "cache" / "features").rglob("*.safetensors")) == paths


def assert_same_rows(root: Path, other: Path) -> None:
    """To rounding; a rounding error may move a number that is stored in int8 by one step of its scale."""
    ours, theirs = stores(root), stores(other)
    assert ours.keys() == theirs.keys()
    for name, (store, shards) in ours.items():
        for shard in shards:
            mine, reference = store.read(shard), theirs[name][0].read(shard)
            assert mine.keys() == reference.keys()
            np.testing.assert_allclose(mine["norms"], reference["norms"], rtol=1e-4)
            if "scales" in mine:
                np.testing.assert_allclose(mine["scales"], reference["scales"], atol=2e-5 / 127)
                moved = np.abs(mine["rows"].astype(int) - reference["rows"])
                assert moved.max() <= 1
                assert (moved > 0).mean() < 0.01
            else:
                np.testing.assert_allclose(mine["rows"], reference["rows"], atol=2e-5)


def scores(root: Path, label: str) -> np.ndarray:
    """[queries, items] of a dmin record, from the rows in the cache."""
    length, dtype = (64, "int8") if "int8" in label else (256, "float32")
    views = {}
    for (_, split), (store, shards) in stores(root).items():
        feature = store.description["feature"]
        if feature["sketch"]["length"] == length and feature["dtype"] == (dtype if split == "train" else "float32"):
            views[split] = StoredRows(StoredShards(store, Unit(0, shards[-1].last)), None, {}).take(
                np.arange(shards[-1].last)
            )
    return np.einsum("qtv,itv->qi", views["query"], views["train"])


def assert_same_records(root: Path, other: Path) -> None:
    ours, theirs = records(root), records(other)
    assert ours.keys() == theirs.keys() == set(METHODS)
    for label, mine in ours.items():
        reference, exact = theirs[label], scores(other, label)
        assert (mine.status, mine.identity) == ("limited", reference.identity)
        assert mine.coverage == reference.coverage
        assert mine.storage.rows == reference.storage.rows
        assert mine.storage.rows_on_disk == reference.storage.rows_on_disk
        same = [a == b for a, b in zip(mine.ranking, reference.ranking, strict=True)]
        for query, (a, b) in enumerate(zip(mine.ranking, reference.ranking, strict=True)):
            assert len(set(a)) == len(b)
            np.testing.assert_allclose(exact[query, a], exact[query, b], atol=1e-3)  # only near ties may swap
        for a, b in zip(mine.metrics, reference.metrics, strict=True):
            assert a.name == b.name
            for query, (x, y) in enumerate(zip(a.per_query, b.per_query, strict=True)):
                assert x == pytest.approx(y, abs=0 if same[query] else 0.11), (label, a.name, query)
            assert a.value == pytest.approx(b.value, abs=0 if all(same) else 0.02)


def traces(root: Path) -> set[str]:
    """The finished and the half-written shards in a cache."""
    folder = root / "cache" / "features"
    return {str(path) for path in folder.rglob("rows-*") if path.suffix == ".safetensors" or ".part" in path.name}


def test_twenty_kills_of_two_processes_at_once_leave_an_undisturbed_cache(builds, undisturbed, empty):
    moments = random.Random(20)
    written = [event.seconds for event in builds.events() if event.name == "written"]
    pace = (written[-1] - written[0]) / (len(written) / len(METHODS))  # seconds a shard, when nothing else is running
    hits = fruitful = in_write = 0
    for round_ in range(KILLS // 2):
        pids = [builds.start(empty, BATCH_SIZES[(2 * round_ + i) % len(BATCH_SIZES)]) for i in range(2)]
        for number, pid in enumerate(pids):
            before = traces(empty)
            moment = MOMENTS[(round_ + number) % len(MOMENTS)]
            assert builds.wait(pid, moment), f"build {pid} ended early: {builds.complaints()}"
            time.sleep(moments.uniform(0, 0.002 if moment == "writing" else 1.5 * pace))
            os.kill(pid, signal.SIGKILL)
            await_end(pid)
            left = Counter(event.name for event in builds.events(pid))
            hits += not left["done"]
            in_write += left["writing"] > left["written"]
            fruitful += bool(traces(empty) - before) or bool(left["written"])
    parts = list((empty / "cache").rglob("*.part-*"))
    assert {int(PART.search(path.name)[1]) for path in parts} <= set(builds.started)
    missing = SHARDS - len({path for path in traces(empty) if ".part" not in path})
    log.info(
        "%d kills hit, %d in a write, %d left something; then %d part files, %d shards missing",
        hits,
        in_write,
        fruitful,
        len(parts),
        missing,
    )
    assert hits == KILLS
    assert fruitful > KILLS / 2
    assert missing > 0
    last = builds.start(empty, "64")
    builds.finish(last)
    assert len(builds.written(last)) >= missing
    assert_complete(empty)
    assert_same_rows(empty, undisturbed)
    assert_same_records(empty, undisturbed)


def test_two_processes_share_the_work(builds, undisturbed, empty):
    pids = [builds.start(empty, batch_size) for batch_size in ("found", "11")]
    builds.finish(*pids)
    counts = [len(builds.written(pid)) for pid in pids]
    twice = [path for path, times in Counter(builds.written(*pids)).items() if times > 1]
    log.info("of %d shards the two processes wrote %s, %d of them twice", SHARDS, counts, len(twice))
    assert min(counts) > SHARDS / 8
    assert len(twice) <= 2 * len(METHODS)
    assert_complete(empty)
    assert_same_rows(empty, undisturbed)
    assert_same_records(empty, undisturbed)
