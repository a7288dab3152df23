"""Damaged files of a cache are named and made again; what is whole stays as it is, and the results too."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from attrbench.gradients.batching import LARGEST, BatchSize
from attrbench.store.checksums import SEAL, seal_path
from attrbench.store.shards import FeatureStore, Timing, Unit, map_safetensors
from tests.cli.conftest import SMALL
from tests.data.making import picture
from tests.faults.conftest import results_of, stamps
from tests.shard_files import digit_key, leave_no_trace, shard_files

METHODS = ("dmin:v=256,timesteps=1", "dmin:v=64,timesteps=1,search=hnsw")


@dataclass
class Cache:
    """A cache with the features and the index of `METHODS`, and how to run on it."""

    root: Path
    attrbench: object

    @property
    def folder(self) -> Path:
        return self.root / "cache"

    @property
    def shard(self) -> Path:
        """The first shard of the training rows of the first method."""
        return sorted(shard_files(self.folder, key=digit_key(0)), key=_size)[-1]

    @property
    def index(self) -> Path:
        (path,) = (self.folder / "methods").rglob("*.bin")
        return path

    def forget(self) -> None:
        """Leaves the first shard of the training rows to be computed again, for both methods."""
        for path in shard_files(self.folder, key=digit_key(0)):
            path.unlink()
            seal_path(path).unlink()

    def run(self, out: str):
        methods = [part for method in METHODS for part in ("-m", method)]
        return self.attrbench("run", *methods, *SMALL, "--cache", self.folder, "--out", self.root / out)


def _size(path: Path) -> int:
    return path.stat().st_size


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def cache(whole, tmp_path, attrbench, with_queries) -> Cache:
    """A copy of an undisturbed cache, with the undisturbed records in `before`."""
    if not (whole / "before").exists():
        with_queries(whole / "cache")
        assert Cache(whole, attrbench).run("before").code == 0
    shutil.copytree(whole, tmp_path / "copy")
    return Cache(tmp_path / "copy", attrbench)


def flip(path: Path, position: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 0x10
    path.write_bytes(data)


def flip_checksum(path: Path) -> None:
    """One character of the checksum that a sidecar promises."""
    data = path.read_bytes()
    at = data.index(b'"sha256":"') + 20
    path.write_bytes(data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :])


def flip_structure(path: Path) -> None:
    flip(path, 0)


def promise_other_bytes(path: Path) -> None:
    sidecar = json.loads(path.read_bytes())
    path.write_text(json.dumps(sidecar | {"bytes": sidecar["bytes"] + 1}))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(200))


def header(path: Path) -> None:
    flip(path, 0)


@pytest.mark.parametrize("damage", [flip, header, empty, garbage])
def test_a_damaged_shard_is_named_and_alone_computed_again(cache, damage):
    _damaged_shard(cache, cache.shard, damage)


@pytest.mark.parametrize("damage", [flip_checksum, flip_structure, promise_other_bytes, empty, garbage])
def test_a_shard_with_a_damaged_sidecar_is_named_and_alone_computed_again(cache, damage):
    _damaged_shard(cache, seal_path(cache.shard), damage)


def _damaged_shard(cache: Cache, victim: Path, damage) -> None:
    shard, about = cache.shard, seal_path(cache.shard)
    before, others = shard.read_bytes(), stamps(cache.folder, shard, about)
    rows = {name: array.copy() for name, array in map_safetensors(shard).items()}
    damage(victim)
    done = cache.run("after")
    assert done.code == 0
    assert done.err.count(str(shard)) == 1
    assert "Traceback" not in done.err
    assert stamps(cache.folder, shard, about) == others
    assert shard.read_bytes() == before
    for name, array in map_safetensors(shard).items():
        np.testing.assert_array_equal(array, rows[name])
    assert results_of(cache.root / "after") == results_of(cache.root / "before")
    promised = json.loads(about.read_bytes())
    assert (promised["bytes"], promised["sha256"]) == (len(before), hashlib.sha256(before).hexdigest())


def test_a_shard_that_changed_without_a_trace_is_found_before_it_is_used_and_computed_again(cache):
    def damage(shard):
        flip(shard)
        leave_no_trace(shard)

    _damaged_shard(cache, cache.shard, damage)


def test_a_method_whose_lost_gradients_are_counted_from_such_a_shard_is_scored_all_the_same(cache):
    command = ("run", "-m", "grad-dot:timesteps=1", *SMALL, "--cache", cache.folder, "--out")
    others = set(cache.folder.rglob("rows-*.safetensors"))
    assert cache.attrbench(*command, cache.root / "before").code == 0
    for number, shard in enumerate(sorted(set(cache.folder.rglob("rows-*.safetensors")) - others)):
        flip(shard)
        leave_no_trace(shard)
        done = cache.attrbench(*command, cache.root / f"after-{number}")
        assert done.code == 0, done.err


def test_an_answer_from_a_shard_that_changed_without_a_trace_is_that_of_before(cache, tmp_path):
    asked = ("attribute", "-m", METHODS[0], *SMALL, "--image", picture(tmp_path / "a.png", 1), "-k", 5, "--json")
    asked += ("--cache", cache.folder, "--out", tmp_path / "out")
    before = cache.attrbench(*asked)
    assert before.code == 0, before.err
    flip(cache.shard)
    leave_no_trace(cache.shard)
    after = cache.attrbench(*asked, "--force")
    assert str(cache.shard) in after.err
    assert json.loads(after.out)["queries"] == json.loads(before.out)["queries"]


@pytest.mark.parametrize("damage", [flip, empty, garbage])
def test_a_damaged_index_is_named_and_built_again(cache, damage):
    index, about = cache.index, seal_path(cache.index)
    before, others = index.read_bytes(), stamps(cache.folder, index, about)
    damage(index)
    done = cache.run("after")
    assert done.code == 0
    assert done.err.count(str(index)) == 1
    assert stamps(cache.folder, index, about) == others
    assert index.read_bytes() == before
    assert results_of(cache.root / "after") == results_of(cache.root / "before")


@pytest.mark.parametrize("damage", [flip_checksum, flip_structure, promise_other_bytes, empty, garbage])
def test_an_index_with_a_damaged_sidecar_is_built_again(cache, damage):
    index, about = cache.index, seal_path(cache.index)
    before = index.read_bytes()
    damage(about)
    done = cache.run("after")
    assert done.code == 0
    assert index.read_bytes() == before
    assert json.loads(about.read_bytes())["bytes"] == len(before)
    assert results_of(cache.root / "after") == results_of(cache.root / "before")


@pytest.mark.parametrize("damage", [flip_structure, empty, garbage])
def test_an_index_sidecar_that_cannot_be_read_is_named(cache, damage):
    damage(seal_path(cache.index))
    assert str(cache.index) in cache.run("after").err


@pytest.mark.parametrize("damage", [flip, empty, garbage])
def test_damaged_queries_are_named_and_generated_again(cache, damage):
    (queries,) = (cache.folder / "queries").glob("*.safetensors")
    before = queries.read_bytes()
    damage(queries)
    done = cache.run("after")
    assert done.code == 0
    assert str(queries) in done.err
    assert queries.read_bytes() == before
    assert results_of(cache.root / "after") == results_of(cache.root / "before")


def test_a_garbage_batch_size_memo_is_ignored(cache, monkeypatch):
    from attrbench.gradients.gradient_pass import GradientPass

    outputs, calls = GradientPass._outputs, []

    def one_failure(self, *arguments):
        calls.append(1)
        return outputs(self, *arguments) if len(calls) != 1 else None

    cache.forget()
    with monkeypatch.context() as patch:
        patch.setattr(GradientPass, "_outputs", one_failure)
        assert cache.run("halved").code == 0
    (memo,) = (path for path in (cache.folder / "batch-sizes").iterdir() if not path.name.endswith(SEAL))
    assert json.loads(memo.read_bytes())["batch_size"] < LARGEST["cpu"]
    garbage(memo)
    cache.forget()
    done = cache.run("after")
    assert done.code == 0
    assert results_of(cache.root / "after") == results_of(cache.root / "before")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"7",
        b'{"batch_size": null}',
        b'{"batch_size": "many"}',
        b'{"batch_size": NaN}',
        b'{"batch_size": Infinity}',
        b'{"batch_size": 1e999}',
        b'{"batch_size": 3}',
    ],
)
def test_a_memo_without_a_seal_leaves_the_size_to_be_found(tmp_path, text):
    memo = tmp_path / "memo.json"
    memo.write_bytes(text)
    size = BatchSize(None, torch.device("cpu"), memo).get(lambda: 1)
    assert size == min(LARGEST["cpu"], psutil.virtual_memory().available)


def test_no_flipped_byte_of_a_sidecar_changes_what_it_says(tmp_path):
    """Either the shard is damaged, or the sidecar says the same."""
    unit, description = Unit(0, 2), {"feature": "rows"}
    store = FeatureStore(tmp_path, description)
    store.write(unit, {"rows": np.ones((2, 1, 4), "f4")}, Timing([0.25, 0.5], 2, [(1, 999)], 0.125))
    said, path = store.sidecar(unit), seal_path(store.path(unit))
    whole, unnoticed = path.read_bytes(), []
    for position in range(len(whole)):
        for mask in (0x01, 0x10):
            data = bytearray(whole)
            data[position] ^= mask
            path.write_bytes(data)
            other = FeatureStore(tmp_path, description)
            if other.state(unit) == "done" and other.sidecar(unit) != said:
                unnoticed.append(bytes(data[max(0, position - 12) : position + 4]))
    assert unnoticed == []


def test_cache_verify_names_a_flipped_shard_and_exits_1(cache):
    assert cache.attrbench("cache", "verify", "--cache", cache.folder).code == 0
    flip(cache.shard)
    done = cache.attrbench("cache", "verify", "--cache", cache.folder)
    assert done.code == 1
    assert cache.shard.name in done.out + done.err
