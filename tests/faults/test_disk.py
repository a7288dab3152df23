"""A full disk: refused early where it can be known; else one line, nothing half-done, and the next run goes on."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from attrbench.errors import AttrbenchError
from attrbench.evaluation import task_run
from attrbench.store.checksums import seal_path
from attrbench.store.shards import FeatureStore, Timing, Unit
from tests.faults.conftest import results_of, stamps
from tests.faults.injection import disk_full, watching
from tests.shard_files import digit_key, shard_files

TASK = ("-t", "digits-mini:queries_per_group=1", "--limit-train", "256", "--device", "cpu")
METHOD = "dmin:v=2048,timesteps=1"  # four shards of 0.5 MB
SHARDS = 5


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("reference")


@pytest.fixture
def undisturbed(reference, attrbench, with_queries) -> dict[str, dict]:
    """The results of a run with room enough."""
    if not (reference / "out").exists():
        with_queries(reference / "cache")
        done = attrbench("run", "-m", METHOD, *TASK, "--cache", reference / "cache", "--out", reference / "out")
        assert done.code == 0
    return results_of(reference / "out")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB, and how to make it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if not sys.platform.startswith("linux") or mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("a tmpfs can be mounted by root on Linux only")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder, lambda: subprocess.run([mount, "-o", "remount,size=64m", folder], check=True)
    finally:
        subprocess.run([umount, "-l", folder], check=True)


def parts(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part*"))


def halves(folder: Path) -> list[Path]:
    """Shards and seals that lack the other."""
    found = {path for path in folder.rglob("rows-*") if ".part" not in path.name}
    whole = {path for path in found if seal_path(path) in found}
    return sorted(found - whole - {seal_path(path) for path in whole})


def assert_one_line(done, *words: str) -> None:
    assert done.code == 1
    assert len(done.complaint) == 1
    assert done.err.splitlines()[-1] == done.complaint[0]
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.complaint[0]


@pytest.fixture
def little_room(monkeypatch):
    """Lets the disk say that so many bytes are free."""
    return lambda free: monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


def test_a_disk_with_too_little_room_is_refused_before_anything_is_computed(
    attrbench, tmp_path, with_queries, little_room
):
    cache = with_queries(tmp_path / "cache")
    little_room(900_000_000)
    method = "dmin:v=65536,timesteps=10"
    done = attrbench("run", "-m", method, *TASK[:2], "--cache", cache, "--out", tmp_path / "out")
    assert_one_line(done, "3,958.4 MB", "900.0 MB", str(cache), "--cache", "--limit-train")
    assert not list(tmp_path.rglob("rows-*"))
    assert not list((tmp_path / "out").rglob("*.json"))


def test_the_refusal_tells_need_and_room_apart_however_small_they_are(attrbench, tmp_path, with_queries, little_room):
    cache = with_queries(tmp_path / "cache")
    little_room(2_000_000)
    done = attrbench("run", "-m", METHOD, *TASK, "--cache", cache, "--out", tmp_path / "out")
    assert_one_line(done, str(cache))
    need, free = re.findall(r"\d[\d.,]* [kMG]?B", done.complaint[0].replace(str(cache), ""))
    assert need != free


def test_room_for_what_is_missing_is_enough(attrbench, tmp_path, undisturbed, reference, little_room):
    shutil.copytree(reference / "cache", tmp_path / "cache")
    shard_files(tmp_path / "cache", key=digit_key(64))[0].unlink()
    little_room(64 * 4 * (2048 + 1))  # rows and norms
    done = attrbench("run", "-m", METHOD, *TASK, "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    assert done.code == 0
    assert results_of(tmp_path / "out") == undisturbed


def test_a_disk_that_fills_up_stops_the_run_and_with_more_room_the_same_command_goes_on(
    attrbench, tmp_path, with_queries, small_disk, undisturbed, monkeypatch
):
    disk, enlarge = small_disk
    cache = with_queries(disk / "cache")
    arguments = ("run", "-m", METHOD, *TASK, "--cache", cache, "--out", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(task_run, "check_disk", lambda plan, world: None)
        done = attrbench(*arguments)
    assert_one_line(done, "No space left on device", str(cache), "--cache")
    assert parts(disk) == []
    assert halves(disk) == []
    finished = stamps(cache)
    assert len(finished) == 2 * (SHARDS - 1) + 1
    assert not list((tmp_path / "out").rglob("*.json"))
    assert_one_line(attrbench(*arguments), str(cache))  # nothing has changed, so the check refuses it now
    enlarge()
    done = attrbench(*arguments)
    assert done.code == 0
    assert "1 of 4 shards to compute" in done.err
    after = stamps(cache)
    assert len(after) == 2 * SHARDS + 1
    assert {path: after[path] for path in finished} == finished
    assert results_of(tmp_path / "out") == undisturbed


@pytest.mark.parametrize(("synced", "flag"), [(4, "--cache"), (9, "--cache"), (16, "--out")])
def test_a_write_that_fails_stops_the_run_and_the_same_command_goes_on(
    attrbench, tmp_path, with_queries, undisturbed, synced, flag
):
    """It is the first shard of the training set, the sidecar of the second, and the record."""
    cache = with_queries(tmp_path / "cache")
    arguments = ("run", "-m", METHOD, *TASK, "--cache", cache, "--out", tmp_path / "out")
    with watching(tmp_path, disk_full(synced), ("fsync",)):
        done = attrbench(*arguments)
    assert_one_line(done, "No space left on device", str(tmp_path), flag)
    assert parts(tmp_path) == []
    finished = stamps(cache, *halves(cache))
    assert len(finished) == 1 + 2 * ((synced - 1) // 3)
    assert attrbench(*arguments).code == 0
    after = stamps(cache)
    assert {path: after[path] for path in finished} == finished
    assert results_of(tmp_path / "out") == undisturbed


@pytest.mark.parametrize(
    ("synced", "before"),
    [
        (0, False),
        (1, False),
        (2, False),
        (0, True),
        (1, True),
        (2, True),
    ],
)
def test_a_write_that_fails_leaves_no_part_file_and_no_half_shard(tmp_path, synced, before):
    """It is that of feature.json, of the data or of the sidecar; `before`: where a shard is written again."""
    store, unit = FeatureStore(tmp_path, {"feature": "rows"}), Unit(0, 2)
    arrays, timing = {"rows": np.ones((2, 1, 4), "f4")}, Timing([0.25, 0.5], 2)
    if before:
        store.write(unit, arrays, timing)
        (store.folder / "feature.json").unlink()
    with (
        watching(tmp_path, disk_full(synced), ("fsync",)),
        pytest.raises(AttrbenchError, match="No space left on device"),
    ):
        store.write(unit, arrays, timing)
    assert parts(tmp_path) == []
    assert halves(tmp_path) == []


@contextmanager
def largest_file(size: int):
    """No file may grow larger meanwhile, as under a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("search", ["hnsw", "faiss"])
def test_an_index_that_did_not_fit_is_no_index(attrbench, tmp_path, with_queries, search):
    method = f"dmin:v=128,timesteps=1,search={search}"
    arguments = ("run", "-m", method, *TASK[:2], "--limit-train", "128", "--cache", with_queries(tmp_path / "cache"))
    assert attrbench(*arguments, "--out", tmp_path / "before").code == 0
    (index,) = (tmp_path / "cache" / "methods").rglob("*.bin")
    size = index.stat().st_size
    index.unlink()
    with largest_file(size - 4096):
        stopped = attrbench(*arguments, "--out", tmp_path / "stopped")
    after = attrbench(*arguments, "--out", tmp_path / "after")
    assert (stopped.code, after.code) == (1, 0), after.out
    assert "failed: cannot write to the cache" in stopped.out
    assert parts(tmp_path) == []
    assert results_of(tmp_path / "after") == results_of(tmp_path / "before")
