"""Only garbage goes from the cache: no file in use, of others, behind a link, or changed meanwhile."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attrbench.gradients.version import ENGINE_VERSION
from attrbench.store.cache_index import index_cache
from attrbench.store.checksums import seal_path
from attrbench.store.garbage import DAY, IDLE_SECONDS, PART_SECONDS, find_garbage, remove
from attrbench.store.shards import FeatureStore
from tests.store.filled_caches import UNITS, age, describe, ended, faults, fill, keep, snapshot, swept


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
    names = (f"{'d' * 20}-64", f"{'d' * 20}.safetensors", f"model-{'d' * 20}")
    leases = [tmp_path / "claims" / f"{name}.lease" for name in names]
    for lease in leases:
        lease.write_text("whose machine is gone")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        assert not swept(tmp_path)  # created within the hour
        age(DAY, tmp_path)
        assert swept(tmp_path).keys() == {free, *leases}
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
