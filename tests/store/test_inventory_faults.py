"""What is not whole or cannot be read in the cache is found, named, and cleared only where sizes tell."""

import os
from pathlib import Path

import pytest

from attrbench.gradients.version import ENGINE_VERSION
from attrbench.store.cache_index import index_cache
from attrbench.store.checksums import seal_path
from attrbench.store.garbage import DAY, IDLE_SECONDS, find_garbage
from attrbench.store.shards import FeatureStore
from tests.store.filled_caches import UNITS, age, cut, describe, faults, fill, flip, keep, snapshot, swept


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"x")


def spoil_sidecar(path):
    seal_path(path).write_text('{"bytes": 3')


HARMS = {
    flip: ("checksum differs", False),
    cut: ("truncated: ", True),
    lengthen: ("too long: ", True),
    spoil_sidecar: ("sidecar is damaged", True),
    Path.unlink: ("sidecar without data", True),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", ["shard", "index"])
def test_harm_is_found_and_what_sizes_tell_is_cleared_after_an_hour(tmp_path, harm, kind):
    store, index = fill(tmp_path), keep(tmp_path)
    victim = store.path(UNITS[0]) if kind == "shard" else index
    assert not faults(tmp_path)
    what, by_size = HARMS[harm]
    harm(victim)
    ((path, told),) = faults(tmp_path).items()
    assert path in (victim, seal_path(victim))
    assert told.startswith(what)
    assert bool(faults(tmp_path, whole=False)) == by_size
    if kind == "shard":
        assert FeatureStore(tmp_path, describe()).state(UNITS[0]) != "done"
    assert not swept(tmp_path)
    age(IDLE_SECONDS + 60, tmp_path)
    others = {path: content for path, content in snapshot(tmp_path).items() if not path.name.startswith(victim.name)}
    assert list(swept(tmp_path)) == ([path] if by_size else [])
    assert victim.exists() == (not by_size)
    assert not by_size or not seal_path(victim).exists()
    assert {path: content for path, content in snapshot(tmp_path).items() if path.is_file() and path in others} == {
        path: content for path, content in others.items() if path.is_file()
    }


@pytest.mark.parametrize("kind", ["shard", "index"])
def test_data_whose_seal_is_lost_is_unknown_and_stays(tmp_path, kind):
    """No kill leaves that: data takes its name after the seal, and loses it first."""
    store, index = fill(tmp_path), keep(tmp_path)
    victim = store.path(UNITS[0]) if kind == "shard" else index
    seal_path(victim).unlink()
    assert [file.path for file in index_cache(tmp_path).other] == [victim]
    assert not faults(tmp_path)
    age(DAY, tmp_path)
    assert not swept(tmp_path)
    assert FeatureStore(tmp_path, describe()).state(UNITS[0]) == ("missing" if kind == "shard" else "done")


def test_a_shard_that_cannot_be_read_is_named_and_kept(tmp_path, monkeypatch):
    store = fill(tmp_path)
    age(DAY, tmp_path)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("attrbench.store.cache_entries.measure", refuse)
    assert faults(tmp_path) == {store.path(unit): "cannot be read: Permission denied" for unit in UNITS}
    assert not swept(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    store = fill(tmp_path)
    real = os.scandir

    def refuse(path):
        if Path(path) == store.folder:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = index_cache(tmp_path)
    assert [fault.path for fault in found.unreadable] == [store.folder]
    assert not [group for group in found.groups if group.about]


def test_a_file_that_cannot_be_looked_at_does_not_make_its_partner_half(tmp_path, monkeypatch):
    store = fill(tmp_path)
    age(DAY, tmp_path)
    real = Path.lstat

    def refuse(path):
        if path == store.path(UNITS[0]):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", refuse)
        found = index_cache(tmp_path)
        assert [fault.path for fault in found.unreadable] == [store.path(UNITS[0])]
        assert not find_garbage(found, ENGINE_VERSION).ready
