"""Caches with features, indexes and folders in them, made older or harmed, and what is found there."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from attrbench.contracts.gradient_source import GradientSource, Sketch, TimestepGrid
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.version import ENGINE_VERSION
from attrbench.search.index_files import kept_index
from attrbench.store.artifacts import Artifact
from attrbench.store.cache_index import index_cache
from attrbench.store.fingerprint import fingerprint
from attrbench.store.garbage import find_garbage, remove
from attrbench.store.shards import FeatureStore, Timing, Unit

FEATURE = GradientRows(source=GradientSource(grid=TimestepGrid(steps=2)), sketch=Sketch(length=4))
UNITS = (Unit(0, 64), Unit(64, 70))


def describe(feature=FEATURE, **changes):
    return {
        "engine": ENGINE_VERSION,
        "kind": type(feature).__name__,
        "feature": feature.model_dump(mode="json"),
    } | changes


def fill(root, description=None, units=UNITS, of="digits-mini v1 train"):
    store = FeatureStore(
        root,
        describe() if description is None else description,
        summary="sketch v=4, T=2",
        kind="rows",
        of=of,
    )
    for unit in units:
        count = unit.last - unit.first
        arrays = {"rows": np.full((count, 2, 4), 0.5, np.float32), "norms": np.ones((count, 2), np.float32)}
        store.write(unit, arrays, Timing([0.1] * count, 1))
    return store


def keep(root, name="hnsw-" + "a" * 20, method="dmin", summary="of 70 rows"):
    path = root / "methods" / method / f"{name}.bin"
    kept_index(path, summary, lambda: b"index" * 10, lambda index, file: Path(file).write_bytes(index), lambda _: b"")
    return path


def keep_folder(root):
    def build(part):
        (part / "unet").mkdir(parents=True)
        (part / "unet" / "weights").write_bytes(b"w" * 100)
        (part / "index.json").write_bytes(b"{}")

    path = root / "pipelines" / ("f" * 20)
    return Artifact(path, "assembled pipeline", "of two parts").kept(build, lambda folder, _: folder).value


def keep_as_earlier(root):
    """What version 0.1 left: a feature with one shard, an index and a lock file."""
    description = {"schema": 3, "task": "digits-mini v1"}
    folder = root / "features" / fingerprint(description)[:20]
    (root / "methods" / "dmin").mkdir(parents=True, exist_ok=True)
    (root / "claims").mkdir(exist_ok=True)
    folder.mkdir(parents=True)
    (folder / "feature.json").write_text(json.dumps(description))
    sidecar = json.dumps({"bytes": 3, "sha256": "0" * 64, "check": "1" * 64, "rows": 64})
    for path in (folder / "items-00000000-00000064.safetensors", root / "methods" / "dmin" / f"hnsw-{'9' * 20}.bin"):
        path.write_bytes(b"old")
        path.with_suffix(".json").write_text(sidecar)
    return folder


def age(seconds, *paths):
    """Sets the time of files, or of all files below a folder, to that long ago."""
    when = time.time() - seconds
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            os.utime(file, (when, when), follow_symlinks=False)


def ended():
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def snapshot(root):
    return {
        path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(root.rglob("*"))
    }


def swept(root, **options):
    """Removes what is ready; paths and reasons."""
    found = find_garbage(index_cache(root), ENGINE_VERSION, **options)
    assert [remove(root, removal) for removal in found.ready] == [None] * len(found.ready)
    return {removal.path: removal.why for removal in found.ready}


def features(root):
    return [group for group in index_cache(root).groups if group.about]


def faults(root, whole=True):
    return {fault.path: fault.what for entry in index_cache(root).entries if (fault := entry.fault(whole))}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])
