"""A read-only cache gives what it holds, and nothing in it is written, touched or removed."""

import os
from pathlib import Path

import numpy as np
import pytest

from attrbench.contracts.computation import Unit
from attrbench.errors import UsageError
from attrbench.evaluation import folders
from attrbench.store import read_only
from attrbench.store.artifacts import Artifact
from attrbench.store.item_store import ItemStore
from attrbench.store.shards import FeatureStore, Timing
from attrbench.store.stored_shards import StoredShards
from tests.store.filled_caches import snapshot

EIGHT = Unit(0, 8)
KEYS = [f"{number:024x}" for number in range(8)]
KINDS = {
    "rows": lambda root, keys=KEYS: ItemStore(root, {"feature": "rows"}, keys, 4),
    "set": lambda root, keys=KEYS: FeatureStore(root, {"feature": "set"}, 4),
}


@pytest.fixture
def shared(tmp_path):
    return tmp_path / "shared"


@pytest.fixture
def mine(tmp_path, shared, monkeypatch):
    """A cache beside which `shared` is read."""
    monkeypatch.setattr(read_only, "_also", {tmp_path / "mine": (shared,)})
    return tmp_path / "mine"


def fill(store, unit=EIGHT):
    """Compute what the store lacks; return the items."""
    ranges = store.missing(unit)
    for part in ranges:
        rows = np.arange(part.first, part.last, dtype=np.float32)
        store.write(part, {"rows": rows}, Timing([0.0] * len(rows), 1))
    return [item for part in ranges for item in range(part.first, part.last)]


def rows(store, unit=EIGHT):
    return StoredShards(store, unit).array("rows").tolist()


def harm(path):
    path.write_bytes(path.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_read_and_not_computed(shared, mine, kind):
    fill(KINDS[kind](shared))
    before = snapshot(shared)
    store = KINDS[kind](mine)
    assert not store.lacks(EIGHT)
    assert fill(store) == []
    assert rows(store) == list(range(8))
    assert store.sidecar(Unit(4, 8)).rows == 4
    assert store.read(Unit(4, 8))["rows"].tolist() == [4, 5, 6, 7]
    assert not mine.exists()
    assert snapshot(shared) == before


def test_a_new_item_goes_to_the_cache_and_the_others_stay_where_they_are(shared, mine):
    fill(KINDS["rows"](shared, KEYS[:6]), Unit(0, 6))
    before = snapshot(shared)
    store = KINDS["rows"](mine)
    assert fill(store) == [6, 7]
    assert rows(store) == list(range(8)) == rows(KINDS["rows"](mine))
    assert snapshot(shared) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["data", "seal"])
def test_a_damaged_shard_stays_and_is_computed_again_elsewhere_with_one_line(shared, mine, kind, what, caplog):
    fill(KINDS[kind](shared))
    path = KINDS[kind](shared).path(Unit(4, 8))
    harm(path if what == "data" else path.with_name(f"{path.name}.seal.json"))
    before = snapshot(shared)
    store = KINDS[kind](mine)
    assert fill(store) == [4, 5, 6, 7]
    assert rows(store) == list(range(8)) == rows(KINDS[kind](mine))
    assert snapshot(shared) == before
    if what == "data" or kind == "rows":
        (line,) = caplog.messages
        assert str(path) in line and "only read" in line and str(mine) in line


def test_two_damaged_shards_are_both_missing(shared, mine):
    fill(KINDS["rows"](shared))
    for unit in (Unit(0, 4), Unit(4, 8)):
        harm(KINDS["rows"](shared).path(unit))
    store = KINDS["rows"](mine)
    assert fill(store) == list(range(8))
    assert rows(store) == list(range(8))


def artifact_in(root):
    return Artifact(root / "things" / f"{'a' * 20}.bin", "thing", "the only one")


def kept(artifact, content=b"content"):
    return artifact.kept(lambda part: part.write_bytes(content) and None, lambda path, _: (path, path.read_bytes()))


def test_an_artifact_is_loaded_from_where_it_is_whole(shared, mine):
    kept(artifact_in(shared))
    before = snapshot(shared)
    found = kept(artifact_in(mine), b"not built")
    assert found.value == (artifact_in(shared).path, b"content")
    assert not mine.exists()
    assert snapshot(shared) == before


def test_a_damaged_artifact_is_built_in_the_cache_with_one_line(shared, mine, caplog):
    kept(artifact_in(shared))
    harm(artifact_in(shared).path)
    before = snapshot(shared)
    assert kept(artifact_in(mine)).value == (artifact_in(mine).path, b"content")
    assert kept(artifact_in(mine), b"not built").value[1] == b"content"
    (line,) = caplog.messages
    assert str(artifact_in(shared).path) in line and "only read" in line
    assert snapshot(shared) == before


def test_dropping_an_artifact_leaves_the_copy(shared, mine):
    kept(artifact_in(shared))
    before = snapshot(shared)
    artifact_in(mine).drop()
    assert snapshot(shared) == before


def test_only_the_cache_that_was_told_reads_along(shared, mine, tmp_path):
    kept(artifact_in(shared))
    assert artifact_in(mine).found() is not None
    assert artifact_in(tmp_path / "another").found() is None
    assert artifact_in(tmp_path / "mine2").found() is None


def test_caches_are_read_in_their_order(tmp_path, mine, shared, monkeypatch):
    monkeypatch.setattr(read_only, "_also", {mine: (tmp_path / "first", shared)})
    kept(artifact_in(shared), b"second")
    kept(artifact_in(tmp_path / "first"), b"first")
    assert kept(artifact_in(mine)).value[1] == b"first"


def test_the_environment_names_caches_to_read(tmp_path, shared, monkeypatch):
    shared.mkdir()
    monkeypatch.setenv(folders.READ_VARIABLE, f"{shared}{os.pathsep}{tmp_path}")
    assert folders.cache_folders(tmp_path / "mine", None) == (tmp_path / "mine", (shared, tmp_path))
    assert folders.cache_folders(tmp_path / "mine", None, [shared]).read == (shared,)
    monkeypatch.delenv(folders.READ_VARIABLE)
    assert folders.cache_folders(tmp_path / "mine", None).read == ()


def test_a_cache_to_read_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no cache folder .*nowhere .*--read-cache"):
        folders.cache_folders(tmp_path, None, [tmp_path / "nowhere"])


def test_a_cache_that_cannot_be_written_to_is_read_and_one_line_says_so(tmp_path, shared, monkeypatch, caplog):
    shared.mkdir()
    monkeypatch.setattr(folders, "users_cache", lambda: tmp_path / "users")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != shared)
    assert folders.cache_folders(shared, None) == (tmp_path / "users", (shared,))
    (line,) = caplog.messages
    assert str(shared) in line and str(tmp_path / "users") in line
    monkeypatch.setattr(folders, "users_cache", lambda: shared)
    assert folders.cache_folders(shared, None) == (shared, ())  # nowhere else to write: making the folder fails
