"""What the cache holds, what of it is not whole, and what may go; the verbs over it are in tests/cli/test_cache.py."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from attrbench.contracts.gradient_source import GradientSource, Sketch, TimestepGrid
from attrbench.errors import AttrbenchError
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.version import ENGINE_VERSION
from attrbench.search.index_files import kept_index
from attrbench.store.artifacts import Artifact
from attrbench.store.cache_index import index_cache
from attrbench.store.checksums import seal_path
from attrbench.store.fingerprint import fingerprint
from attrbench.store.garbage import DAY, IDLE_SECONDS, PART_SECONDS, find_garbage, remove
from attrbench.store.shards import FeatureStore, Timing, Unit

FEATURE = GradientRows(source=GradientSource(grid=TimestepGrid(steps=2)), sketch=Sketch(length=4))
UNITS = (Unit(0, 64), Unit(64, 70))


def describe(feature=FEATURE, **changes):
    return {
        "engine": ENGINE_VERSION,
        "kind": type(feature).__name__,
        "feature": feature.model_dump(mode="json"),
    } | changes


def fill(root, description=None, units=UNITS):
    store = FeatureStore(
        root,
        describe() if description is None else description,
        summary="sketch v=4, T=2",
        kind="rows",
        of="digits-mini v1 train",
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


def indexes(root):
    return [group for group in index_cache(root).groups if group.told[0] == "index"]


def faults(root, whole=True):
    return {fault.path: fault.what for entry in index_cache(root).entries if (fault := entry.fault(whole))}


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


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


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


def test_a_part_file_goes_once_its_process_is_gone(tmp_path):
    store = fill(tmp_path)
    part = store.folder / f"items-00000000-00000064.safetensors.part-{ended()}"
    live = tmp_path / "queries" / f"x.safetensors.part-{os.getpid()}"
    huge = tmp_path / "queries" / "x.part-9999999999"
    live.parent.mkdir()
    for path in (part, live, huge):
        path.write_bytes(b"half")
    assert not swept(tmp_path)  # another machine may be writing it
    age(PART_SECONDS + 5, part, live, huge)
    assert swept(tmp_path).keys() == {part, huge}
    age(DAY + 60, live)  # the number belongs to another process by now
    assert swept(tmp_path).keys() == {live}
    assert not faults(tmp_path)


@pytest.mark.parametrize("name", ["x.part", "x.part-01", "x.part-7x", "part-7", "x.part-"])
def test_names_that_are_no_part_files_stay(tmp_path, name):
    fill(tmp_path)
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / name).write_bytes(b"x")
    age(3 * DAY, tmp_path)
    assert not swept(tmp_path)


@pytest.mark.parametrize("changes", [{"engine": ENGINE_VERSION - 1}, {"engine": ENGINE_VERSION + 1}, {"schema": 0}])
def test_features_of_another_version_go_once_nobody_uses_them(tmp_path, changes):
    old, kept = fill(tmp_path, describe() | changes), fill(tmp_path)
    assert not swept(tmp_path)
    age(DAY, tmp_path)
    os.utime(old.folder / "feature.json")  # another version reads it now
    assert not swept(tmp_path)
    age(DAY, tmp_path)
    (name,) = changes
    ((path, why),) = swept(tmp_path).items()
    assert path == old.folder
    assert f"of {name} version {changes[name]}" in why
    assert not old.folder.exists()
    assert kept.state(UNITS[0]) == FeatureStore(tmp_path, describe()).state(UNITS[1]) == "done"


def test_a_feature_that_does_not_tell_its_engine_stays(tmp_path):
    description = describe()
    del description["engine"]
    fill(tmp_path, description)
    age(DAY, tmp_path)
    assert not swept(tmp_path)


def test_only_what_was_not_used_for_so_long_goes(tmp_path):
    stale, read, fresh = (fill(tmp_path, describe(split=split)) for split in ("a", "b", "c"))
    unused, loaded = keep(tmp_path), keep(tmp_path, "faiss-" + "b" * 20)
    queries = tmp_path / "queries" / "q.safetensors"
    queries.parent.mkdir()
    queries.write_bytes(b"x")
    age(10 * DAY, stale.folder, read.folder, unused.parent, queries)
    assert not swept(tmp_path)
    FeatureStore(tmp_path, read.description).read(UNITS[0])
    keep(tmp_path, loaded.stem)
    assert swept(tmp_path, older_than=9 * DAY).keys() == {stale.folder, unused}
    assert (stale.folder.exists(), read.folder.exists(), fresh.folder.exists()) == (False, True, True)
    assert (unused.exists(), loaded.exists(), queries.exists()) == (False, True, True)


def test_older_than_nothing_still_leaves_what_was_used_within_the_hour(tmp_path):
    fill(tmp_path)
    assert not swept(tmp_path, older_than=0)
    age(IDLE_SECONDS + 60, tmp_path)
    assert swept(tmp_path, older_than=0)


def test_what_changes_between_the_look_and_the_removal_stays(tmp_path):
    store = fill(tmp_path)
    age(10 * DAY, tmp_path)
    (removal,) = find_garbage(index_cache(tmp_path), ENGINE_VERSION, older_than=DAY).ready
    FeatureStore(tmp_path, describe()).read(UNITS[0])
    before = snapshot(tmp_path)
    assert "changed meanwhile" in remove(tmp_path, removal).what
    assert snapshot(tmp_path) == before
    assert FeatureStore(tmp_path, store.description).state(UNITS[0]) == "done"


HOLD = """
import sys
from pathlib import Path
from attrbench.store.locks import lock
with lock(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_file_goes_only_while_nobody_holds_it(tmp_path):
    fill(tmp_path)
    names = ("a" * 20 + ".safetensors", "b" * 20 + "-64", "poetry", "c" * 40)
    held, free, *foreign = (tmp_path / "claims" / f"{name}.lock" for name in names)
    held.parent.mkdir()
    for path in (held, free, *foreign):
        path.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        assert not swept(tmp_path)  # created within the hour
        age(DAY, tmp_path)
        assert swept(tmp_path).keys() == {free}
        assert held.exists()
    finally:
        process.communicate("")
    assert all(path.exists() for path in foreign)


def test_what_methods_and_tasks_keep_is_left_alone(tmp_path):
    fill(tmp_path)
    names = (
        "methods/other/notes.json",
        "methods/other/weights.bin",
        f"methods/other/other-{'c' * 20}.bin",
        f"methods/other/deep/hnsw-{'c' * 20}.bin",
        "queries/q.safetensors",
        "queries/items-00000000-00000064.json",
        "features/not-a-key/items-00000000-00000064.json",
        f"features/{'d' * 20}/notes.txt",
        "somewhere/items-00000000-00000064.safetensors",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    age(100 * DAY, tmp_path)
    swept(tmp_path, older_than=DAY)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*")) if path.is_file()] == sorted(
        names
    )


def test_a_folder_goes_with_its_feature_unless_something_else_is_in_it(tmp_path):
    plain, shared = fill(tmp_path), fill(tmp_path, describe(split="query"))
    (shared.folder / "notes.txt").write_text("mine")
    age(DAY * 9, tmp_path)
    swept(tmp_path, older_than=DAY)
    assert not plain.folder.exists()
    assert [path.name for path in shared.folder.iterdir()] == ["notes.txt"]


def test_an_index_of_any_name_is_known_by_its_sidecar(tmp_path):
    path = keep(tmp_path, "tree")
    (entry,) = index_cache(tmp_path).entries
    assert entry.path == path
    assert (entry.seal.bytes, entry.seal.summary) == (50, "of 70 rows")


def test_links_are_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    foreign = fill(elsewhere, describe(engine=0))
    (foreign.folder / f"x.part-{ended()}").write_bytes(b"x")
    root = tmp_path / "cache"
    store = fill(root, describe(engine=0, split="query"), units=(UNITS[0],))
    linked = store.path(UNITS[1])
    linked.symlink_to(foreign.path(UNITS[1]))
    seal_path(linked).write_bytes(seal_path(foreign.path(UNITS[1])).read_bytes())
    (root / "methods").symlink_to(elsewhere)
    (root / "features" / ("e" * 20)).symlink_to(foreign.folder)
    age(100 * DAY, tmp_path)
    before = snapshot(elsewhere)
    found = index_cache(root)
    assert set(found.links) == {linked, root / "methods", root / "features" / ("e" * 20)}
    assert len(found.entries) == 1
    assert not [entry.fault(whole=True) for entry in found.entries if entry.fault(whole=True)]
    swept(root, older_than=DAY)
    assert snapshot(elsewhere) == before
    assert linked.is_symlink()
    assert not store.path(UNITS[0]).exists()


def test_a_file_that_has_come_to_lie_behind_a_link_stays(tmp_path):
    root = tmp_path / "cache"
    store = fill(root, describe(engine=0))
    age(DAY, tmp_path)
    (removal,) = find_garbage(index_cache(root), ENGINE_VERSION).ready
    store.folder.rename(tmp_path / "moved")
    store.folder.symlink_to(tmp_path / "moved")
    assert remove(root, removal) is not None
    assert len(list((tmp_path / "moved").iterdir())) == 5


def test_what_cannot_be_removed_is_named(tmp_path, monkeypatch):
    fill(tmp_path)
    age(10 * DAY, tmp_path)
    (removal,) = find_garbage(index_cache(tmp_path), ENGINE_VERSION, older_than=DAY).ready

    def refuse(path, missing_ok=False):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert remove(tmp_path, removal).what == "cannot be removed: Read-only file system"


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
