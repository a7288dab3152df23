"""What the cache holds is counted and told as its files say; the verbs over it are in tests/cli/test_cache.py."""

import os
import time

import numpy as np
import pytest

from attrbench.errors import AttrbenchError
from attrbench.gradients.version import ENGINE_VERSION
from attrbench.store.cache_index import index_cache
from attrbench.store.checksums import seal_path
from attrbench.store.garbage import DAY, find_garbage
from attrbench.store.shards import FeatureStore, Timing, Unit
from tests.store.filled_caches import (
    UNITS,
    age,
    describe,
    ended,
    faults,
    features,
    fill,
    flip,
    keep,
    keep_as_earlier,
    keep_folder,
    swept,
)


def indexes(root):
    return [group for group in index_cache(root).groups if group.told[0] == "index"]


def test_every_byte_is_counted_once(tmp_path):
    fill(tmp_path)
    fill(tmp_path, describe(split="query"))
    keep(tmp_path)
    for name in ("queries/x.safetensors", "batch-sizes/y.json", "task-folder/deep/z", "w.part-7", "v.part-8/deep/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    keep_folder(tmp_path)
    keep_as_earlier(tmp_path)
    found = index_cache(tmp_path)
    assert (len(found.groups), len(found.rest), len(found.earlier)) == (4, 5, 2)
    assert found.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())


def test_items_of_shards_that_overlap_count_once(tmp_path):
    fill(tmp_path, units=(Unit(0, 64), Unit(64, 70), Unit(64, 128), Unit(192, 200)))
    (feature,) = features(tmp_path)
    assert feature.items == 128 + 8
    assert len(feature.done) == 4


def test_a_feature_is_told_by_what_its_files_say(tmp_path):
    fill(tmp_path)
    (feature,) = features(tmp_path)
    assert feature.told == ("rows", "sketch v=4, T=2")
    assert feature.of == "digits-mini v1 train"


def test_kind_and_summary_are_no_part_of_the_fingerprint(tmp_path):
    stores = [FeatureStore(tmp_path, describe(), kind=kind, summary=kind) for kind in ("", "rows", "others")]
    assert len({store.folder for store in stores}) == 1
    stores[0].write(Unit(0, 1), {"rows": np.ones((1, 2))}, Timing([0.1], 1))
    assert stores[1].state(Unit(0, 1)) == "done"


def test_a_feature_whose_description_is_lost_is_told_by_its_shards(tmp_path):
    (fill(tmp_path).folder / "feature.json").unlink()
    (group,) = index_cache(tmp_path).groups
    assert (group.told, group.of, group.items) == (("rows", "sketch v=4, T=2"), "", 70)


@pytest.mark.parametrize("changes", [{"kind": "Later"}, {"kind": ["x"]}, {"feature": {"new": 1}}, {"feature": None}])
def test_a_feature_of_another_kind_is_listed(tmp_path, changes):
    fill(tmp_path, describe() | changes)
    (stored,) = features(tmp_path)
    assert (stored.told, stored.items) == (("rows", "sketch v=4, T=2"), 70)


def test_what_version_0_1_kept_is_known_as_that_and_goes(tmp_path):
    folder = keep_as_earlier(tmp_path)
    (tmp_path / "claims" / ("b" * 20)).write_bytes(b"")
    found = index_cache(tmp_path)
    assert not (found.groups or found.other or found.unreadable)
    assert not swept(tmp_path)
    age(DAY, tmp_path)
    assert swept(tmp_path) == dict.fromkeys(
        [folder, tmp_path / "methods" / "dmin", tmp_path / "claims"], "of an earlier version of attrbench"
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_is_an_artifact_whose_every_file_counts(tmp_path):
    folder = keep_folder(tmp_path)
    found = index_cache(tmp_path)
    assert [entry.path for entry in found.entries] == [folder]
    assert not found.other and not faults(tmp_path)
    flip(folder / "unet" / "weights")
    assert faults(tmp_path) == {folder: "checksum differs"}
    (folder / "index.json").unlink()
    assert faults(tmp_path, whole=False)[folder].startswith("truncated")
    age(2 * DAY, tmp_path)
    assert list(swept(tmp_path)) == [folder]
    assert not folder.exists() and not seal_path(folder).exists()


def test_a_half_made_folder_goes_once_its_process_is_gone(tmp_path):
    fill(tmp_path)
    part = tmp_path / "pipelines" / f"{'f' * 20}.part-{ended()}"
    (part / "unet").mkdir(parents=True)
    (part / "unet" / "weights").write_bytes(b"x")
    age(DAY, tmp_path)
    assert swept(tmp_path).keys() == {part}
    assert not part.exists()


@pytest.mark.parametrize("text", [b"", b"[" * 100_000, b"[]", b'{"engine": 0}', b"\xff"])
def test_a_description_that_is_not_this_folders_is_a_fault_and_decides_nothing(tmp_path, text):
    store = fill(tmp_path)
    (store.folder / "feature.json").write_bytes(text)
    age(DAY, tmp_path)
    (feature,) = features(tmp_path)
    assert feature.about_fault.path == store.folder / "feature.json"
    assert not feature.description
    assert not swept(tmp_path)


def test_reading_rows_leaves_the_time_once_a_store(tmp_path):
    store = fill(tmp_path)
    age(DAY, tmp_path)
    reader = FeatureStore(tmp_path, describe())
    reader.state(UNITS[0])
    assert features(tmp_path)[0].last_used < time.time() - DAY / 2
    reader.read(UNITS[0])
    assert features(tmp_path)[0].last_used > time.time() - DAY / 2
    age(DAY, store.folder)
    reader.read(UNITS[1])
    assert features(tmp_path)[0].last_used < time.time() - DAY / 2


def test_loading_an_index_leaves_the_time(tmp_path):
    keep(tmp_path)
    age(DAY, tmp_path)
    assert indexes(tmp_path)[0].last_used < time.time() - DAY / 2
    keep(tmp_path)
    assert indexes(tmp_path)[0].last_used > time.time() - DAY / 2


def test_a_cache_that_cannot_be_written_to_is_read_all_the_same(tmp_path, monkeypatch):
    store = fill(tmp_path)
    index = keep(tmp_path)

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert len(FeatureStore(tmp_path, describe()).read(UNITS[0])["rows"]) == 64
    assert keep(tmp_path) == index
    assert store.folder == features(tmp_path)[0].folder


def test_an_index_of_any_name_is_known_by_its_sidecar(tmp_path):
    path = keep(tmp_path, "tree")
    (entry,) = index_cache(tmp_path).entries
    assert entry.path == path
    assert (entry.seal.bytes, entry.seal.summary) == (50, "of 70 rows")


def test_a_folder_that_is_no_cache_is_not_swept(tmp_path):
    (tmp_path / "archive.tar.part-2").write_bytes(b"x")
    age(9 * DAY, tmp_path)
    with pytest.raises(AttrbenchError, match="no cache"):
        find_garbage(index_cache(tmp_path), ENGINE_VERSION)


def test_an_empty_cache_is_a_cache(tmp_path):
    found = index_cache(tmp_path)
    assert (found.bytes, found.entries, find_garbage(found, ENGINE_VERSION).ready) == (0, [], [])


@pytest.mark.parametrize("name", ["none", "file"])
def test_a_cache_that_is_not_there_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(AttrbenchError, match=str(tmp_path / name)) as caught:
        index_cache(tmp_path / name)
    assert "\n" not in str(caught.value)
