import json
import os

import pytest

from attrbench.store.garbage import DAY
from tests.cli.conftest import SMALL
from tests.store.filled_caches import (
    UNITS,
    age,
    cut,
    describe,
    ended,
    fill,
    flip,
    keep,
    keep_as_earlier,
    snapshot,
)


@pytest.fixture
def root(tmp_path):
    """OUT/cache with two features and an index."""
    fill(tmp_path / "cache")
    fill(tmp_path / "cache", describe(split="query"), of="digits-mini v1 query")
    keep(tmp_path / "cache")
    return tmp_path / "cache"


def rows_of(out):
    return [line.split() for line in out.splitlines()]


def test_ls_tells_each_feature_each_index_and_the_rest(attrbench, root):
    (root / "queries").mkdir()
    (root / "queries" / "q.safetensors").write_bytes(b"x" * 2000)
    done = attrbench("cache", "ls", "--out", root.parent)
    assert done.code == 0
    for split in ("train", "query"):
        (row,) = (row for row in rows_of(done.out) if row[4:7] == ["digits-mini", "v1", split])
        assert (row[:4], row[7:9]) == (["rows", "sketch", "v=4,", "T=2"], ["2", "70"])
    (row,) = (row for row in rows_of(done.out) if row[:1] == ["index"])
    assert row[1:4] == ["of", "70", "rows"]
    assert row[-1] == f"methods/dmin/hnsw-{'a' * 20}.bin"
    assert "everything else: queries 1 file 2.0 kB" in done.out
    assert done.out.splitlines()[-1].endswith(f"in {root}")


def test_ls_shows_what_files_say_literally(attrbench, tmp_path):
    fill(tmp_path, of="[red]boom[/red]\x1b[31m v1")
    keep(tmp_path, summary="[bold]new\nline")
    out = attrbench("cache", "ls", "--cache", tmp_path).out
    assert "[red]boom[/red]?[31m v1" in out
    assert "[bold]new?line" in out
    assert "\x1b" not in out


def test_ls_counts_the_shards_that_are_not_whole(attrbench, tmp_path):
    cut(fill(tmp_path).path(UNITS[0]))
    out = attrbench("cache", "ls", "--cache", tmp_path).out
    assert "1 (1 not whole)" in out
    (feature,) = json.loads(attrbench("cache", "ls", "--cache", tmp_path, "--json").out)["artifacts"]
    assert (len(feature["files"]), feature["items"], len(feature["faults"])) == (1, 6, 1)


def test_ls_as_json_adds_up(attrbench, root):
    keep_as_earlier(root)
    (root / "notes").write_bytes(b"x")
    listing = json.loads(attrbench("cache", "ls", "--cache", root, "--json").out)
    parts = [*listing["artifacts"], listing["earlier"], listing["other"]]
    assert all(part["bytes"] for part in parts)
    assert sum(part["bytes"] for part in parts) == listing["bytes"]
    seconds = {part["kind"]: part["build_seconds"] for part in listing["artifacts"]}
    assert seconds["rows"] is None and seconds["index"] >= 0
    assert listing["artifacts"][0]["last_used"].endswith("+00:00")


def test_a_cache_that_cannot_be_written_to_is_listed_and_verified(attrbench, root):
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot(root)
    try:
        assert attrbench("cache", "ls", "--cache", root).code == 0
        assert attrbench("cache", "verify", "--cache", root).code == 0
        assert snapshot(root) == before
    finally:
        for path in (root, *root.rglob("*")):
            path.chmod(0o755)


def test_verify_says_in_one_line_that_all_is_whole(attrbench, root):
    done = attrbench("cache", "verify", "--cache", root)
    assert done.code == 0
    (line,) = done.out.splitlines()
    assert line.startswith("everything is whole: 5 sealed files, ")


@pytest.mark.parametrize(("harm", "what"), [(flip, "checksum differs"), (cut, "truncated")])
def test_verify_names_what_is_damaged_and_changes_nothing(attrbench, root, harm, what):
    shards = sorted(root.rglob("*.safetensors"))
    index = next(root.rglob("*.bin"))
    harm(shards[1])
    harm(index)
    before = snapshot(root)
    done = attrbench("cache", "verify", "--cache", root)
    assert done.code == 1
    lines = done.out.splitlines()
    assert [line.startswith(f"{path}: {what}") for line, path in zip(lines, (shards[1], index), strict=False)] == [
        True,
        True,
    ]
    assert "2 faults found in 5 sealed files" in lines[2]
    assert "the next run that needs them makes the broken ones again" in lines[2]
    assert snapshot(root) == before
    done = attrbench("cache", "verify", "--cache", root, "--json")
    assert done.code == 1
    assert not json.loads(done.out)["unknown"]
    assert [fault["path"] for fault in json.loads(done.out)["faults"]] == [str(shards[1]), str(index)]


def test_verify_names_what_nothing_vouches_for_and_does_not_fail(attrbench, root):
    names = [f"datasets/{number}" for number in range(8)] + ["queries/q.safetensors"]
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    done = attrbench("cache", "verify", "--cache", root)
    assert done.code == 0
    assert f"unknown: {root / names[0]} (nothing vouches for it)" in done.out
    assert f"unknown: 3 more below {root / 'datasets'}" in done.out
    assert f"unknown: {root / names[-1]}" in done.out
    listing = json.loads(attrbench("cache", "verify", "--cache", root, "--json").out)
    assert listing["unknown"] == [str(root / name) for name in names]


@pytest.mark.parametrize("verb", ["ls", "verify", "gc"])
def test_what_version_0_1_kept_is_no_fault(attrbench, root, verb):
    folder = keep_as_earlier(root)
    age(DAY, root)
    done = attrbench("cache", verb, "--cache", root)
    assert done.code == 0
    assert folder.exists() == (verb != "gc")
    assert verb != "ls" or "of an earlier version" in done.out
    assert verb != "gc" or f"removed {folder}: of an earlier version of attrbench" in done.out


def test_gc_tells_what_it_removed_and_the_bytes(attrbench, root):
    part = root / "features" / f"x.part-{ended()}"
    live = root / "features" / f"y.part-{os.getpid()}"
    for path in (part, live):
        path.write_bytes(b"x" * 1500)
        age(600, path)
    old = fill(root, describe(engine=0))
    age(DAY, old.folder)
    before = snapshot(root)
    tried = attrbench("cache", "gc", "--cache", root, "--dry-run")
    assert tried.code == 0
    assert snapshot(root) == before
    done = attrbench("cache", "gc", "--cache", root)
    assert done.code == 0
    assert tried.out.replace("would remove", "removed").replace("would free", "freed") == done.out
    assert f"removed {part}: left over by process" in done.out
    assert f"removed {old.folder}: of engine version 0" in done.out
    assert "in 6 files" in done.out
    assert "1 more stays for now" in done.out
    assert not part.exists()
    assert live.exists()
    gone = {part, old.folder, *(path for path in before if path.parent == old.folder)}
    assert {path for path in before if not path.exists()} == gone


def test_gc_of_what_was_not_used_for_days(attrbench, root):
    index = next(root.rglob("*.bin"))
    age(3 * DAY, index.parent)
    assert "nothing to remove" in attrbench("cache", "gc", "--cache", root, "--older-than", "4").out
    assert index.exists()
    assert f"removed {index}: not used for 3 days" in attrbench("cache", "gc", "--cache", root, "--older-than", "2").out
    assert not index.exists()
    assert len(list(root.rglob("*.safetensors"))) == 4


def test_gc_names_what_it_cannot_remove_and_goes_on(attrbench, root, monkeypatch):
    from pathlib import Path

    real = Path.unlink
    parts = [root / f"{name}.part-{ended()}" for name in "ab"]
    for part in parts:
        part.write_bytes(b"x")
        age(600, part)

    def refuse(path, missing_ok=False):
        if path == parts[0]:
            raise OSError(30, "Read-only file system", str(path))
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    done = attrbench("cache", "gc", "--cache", root)
    assert done.code == 1
    assert f"{parts[0]}: cannot be removed: Read-only file system" in done.err
    assert "freed 1 byte in 1 file" in done.out
    assert not parts[1].exists()


@pytest.mark.parametrize("verb", ["ls", "verify", "gc"])
def test_a_cache_that_is_not_there_is_one_line(attrbench, tmp_path, verb):
    done = attrbench("cache", verb, "--cache", tmp_path / "none")
    assert done.code == 1
    assert len(done.complaint) == 1
    assert str(tmp_path / "none") in done.complaint[0]
    assert not done.out


@pytest.mark.parametrize("verb", ["ls", "verify", "gc"])
def test_links_are_named_and_not_followed(attrbench, root, verb):
    (root / "elsewhere").symlink_to(root.parent)
    done = attrbench("cache", verb, "--cache", root)
    assert done.code == 0
    assert f"left out {root / 'elsewhere'}" in done.err


def test_a_negative_age_is_wrong_usage(attrbench, root):
    assert attrbench("cache", "gc", "--cache", root, "--older-than", "-1").code == 2


def test_what_a_run_leaves_is_known_whole_and_used(attrbench, tmp_path):
    """The cache of a real run: nothing is damaged, nothing may go, and a second run marks it as used."""
    run = ("run", "-m", "dmin:v=256,timesteps=1,search=hnsw", *SMALL[:2], "--limit-train", "40", "--limit-queries", "2")
    assert attrbench(*run, "--device", "cpu", "--out", tmp_path).code == 0
    root = tmp_path / "cache"
    listing = json.loads(attrbench("cache", "ls", "--out", tmp_path, "--json").out)
    kinds = {}
    for part in listing["artifacts"]:
        kinds.setdefault(part["kind"], []).append(part)
    assert kinds.keys() == {"gradient rows", "index", "generated queries"}
    assert {feature["summary"] for feature in kinds["gradient rows"]} == {"sketch v=256, T=1"}
    assert {feature["items"] for feature in kinds["gradient rows"]} == {42}  # queries beside training items
    assert [index["summary"] for index in kinds["index"]] == ["HNSW graph of 40 rows, M=16"]
    verified = json.loads(attrbench("cache", "verify", "--out", tmp_path, "--json").out)
    assert not verified["unknown"]
    age(5 * DAY, root)
    kept = snapshot(root / "features") | snapshot(root / "methods")
    assert attrbench("cache", "verify", "--out", tmp_path).code == 0
    assert attrbench("cache", "gc", "--out", tmp_path).code == 0
    assert snapshot(root / "features") | snapshot(root / "methods") == kept
    assert attrbench(*run, "--device", "cpu", "--out", tmp_path, "--rerun").code == 0
    assert "nothing to remove" in attrbench("cache", "gc", "--out", tmp_path, "--older-than", "4").out
    assert len(json.loads(attrbench("cache", "ls", "--out", tmp_path, "--json").out)["artifacts"]) == 3
