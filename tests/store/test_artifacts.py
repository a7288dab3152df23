"""What is kept is made once, by one process, is whole or not there, and says what it is."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attrbench import __version__
from attrbench.errors import AttrbenchError
from attrbench.store.artifacts import Artifact
from attrbench.store.checksums import seal_path

CONTENT = b"content" * 20


@pytest.fixture
def artifact(tmp_path):
    return Artifact(tmp_path / "things" / f"{'a' * 20}.bin", "thing", "the first of two")


@pytest.fixture
def builds():
    return []


def kept(artifact, builds, content=CONTENT):
    def build(part):
        builds.append(part)
        part.write_bytes(content)
        return {"shape": [2, 3], "note": "as it was"}

    return artifact.kept(build, lambda path, facts: (path.read_bytes(), facts))


def folder_of(artifact):
    def build(part):
        (part / "deep").mkdir(parents=True)
        (part / "deep" / "one").write_bytes(b"1" * 9)
        (part / "two").write_bytes(b"2" * 9)

    return artifact.kept(build, lambda path, _: path).value


def left(artifact):
    folder = artifact.path.parent
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_it_is_built_once_and_comes_back_with_its_facts(artifact, builds):
    first, again = kept(artifact, builds), kept(artifact, builds)
    assert len(builds) == 1
    assert first.value == again.value == (CONTENT, {"shape": [2, 3], "note": "as it was"})
    assert first.bytes == again.bytes == len(CONTENT)
    assert first.earlier_seconds == 0 < again.earlier_seconds


def test_the_seal_says_what_it_is(artifact, builds):
    kept(artifact, builds)
    seal = artifact.whole()
    assert (seal.kind, seal.summary, seal.created_by) == ("thing", "the first of two", __version__)
    assert left(artifact) == [artifact.path.name, seal_path(artifact.path).name]


def test_arrays_come_back_as_they_were(artifact):
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array(7, np.int64)}
    first = artifact.arrays(lambda: arrays)
    again = artifact.arrays(lambda: pytest.fail("they are kept"))
    for value in (first.value, again.value):
        assert value.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(value[name], array, strict=True)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


HARMS = {
    "flipped data": lambda path: flip(path),
    "cut data": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flipped seal": lambda path: flip(seal_path(path)),
    "another seal": lambda path: seal_path(path).write_text("{}"),
    "no seal": lambda path: seal_path(path).unlink(),
    "no data": lambda path: path.unlink(),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_one_is_reported_once_and_built_again(artifact, builds, harm, caplog):
    kept(artifact, builds)
    HARMS[harm](artifact.path)
    assert artifact.whole() is None
    assert kept(artifact, builds).value[0] == CONTENT
    assert len(builds) == 2
    assert caplog.text.count(str(artifact.path)) == (0 if harm.startswith("no ") else 1)
    assert artifact.whole() is not None


@pytest.mark.parametrize("harm", ["changed", "lost", "added", "renamed"])
def test_every_file_of_a_folder_counts(artifact, harm):
    folder = folder_of(artifact)
    assert artifact.whole() is not None
    if harm == "changed":
        flip(folder / "two")
    elif harm == "lost":
        (folder / "two").unlink()
    elif harm == "added":
        (folder / "three").write_bytes(b"")
    else:
        (folder / "two").rename(folder / "deep" / "two")
    assert artifact.whole() is None
    assert sorted(path.name for path in folder_of(artifact).rglob("*")) == ["deep", "one", "two"]
    assert left(artifact) == [artifact.path.name, seal_path(artifact.path).name]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("renames", [0, 1])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_kill_leaves_a_whole_one_or_a_seal_without_data(artifact, builds, monkeypatch, before, renames, what):
    """The renames are that of the seal and that of the data."""
    make = {"file": lambda: kept(artifact, builds), "folder": lambda: folder_of(artifact)}[what]
    if before:
        make()
        seal_path(artifact.path).write_text("damaged")
    real, done = Path.replace, []

    def dying(path, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            make()
    assert artifact.whole() is None
    assert not artifact.path.exists()
    make()
    assert artifact.whole() is not None


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("synced", [0, 1])
def test_a_full_disk_is_one_line_and_leaves_no_half(artifact, builds, monkeypatch, before, synced):
    """It is full when the data or the seal are written."""
    if before:
        kept(artifact, builds)
        flip(artifact.path)
    done = []

    def fsync(file):
        if len(done) == synced:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done.append(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(AttrbenchError, match=r"cannot write to the cache .*No space left on device.*--cache") as caught:
        kept(artifact, builds)
    assert "\n" not in str(caught.value)
    names = left(artifact)
    assert not names or (names == [artifact.path.name, seal_path(artifact.path).name] and before)


def test_a_build_that_fills_the_disk_is_one_line_and_leaves_nothing(artifact):
    def build(part):
        part.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(AttrbenchError, match="No space left on device"):
        artifact.kept(build, lambda path, _: path)
    assert left(artifact) == []


def test_a_build_that_fails_for_another_reason_is_not_blamed_on_the_cache(artifact):
    def build(part):
        part.write_bytes(b"half")
        raise ConnectionError("no hub")

    with pytest.raises(ConnectionError):
        artifact.kept(build, lambda path, _: path)
    assert left(artifact) == []


def test_a_folder_of_somebody_else_at_its_place_stays(artifact, builds):
    artifact.path.mkdir(parents=True)
    (artifact.path / "mine").write_text("x")
    with pytest.raises(AttrbenchError, match="something else is at"):
        kept(artifact, builds)
    assert (artifact.path / "mine").read_text() == "x"


def test_a_cache_that_cannot_be_written_to_is_read_all_the_same(artifact, builds, monkeypatch):
    kept(artifact, builds)

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("utime", "open", "fsync"):
        monkeypatch.setattr(os, name, refuse)
    assert kept(artifact, builds).value[0] == CONTENT
    assert len(builds) == 1


def test_use_sets_the_time_of_the_seal_and_of_nothing_else(artifact, builds):
    kept(artifact, builds)
    for path in (artifact.path, seal_path(artifact.path)):
        os.utime(path, (1, 1))
    kept(artifact, builds)
    assert artifact.path.stat().st_mtime == 1 < seal_path(artifact.path).stat().st_mtime


SLOW = """
import sys, time
from pathlib import Path
from attrbench.store.artifacts import Artifact
def build(part):
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    time.sleep(1)
    part.write_bytes(b"slow")
print(Artifact(Path(sys.argv[1]), "thing", "").kept(build, lambda path, _: path.read_bytes()).value)
"""


@pytest.mark.slow
def test_processes_that_need_it_at_once_build_it_once(artifact, tmp_path):
    command = [sys.executable, "-c", SLOW, str(artifact.path), str(tmp_path / "log")]
    others = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [other.communicate()[0].strip() for other in others] == ["b'slow'"] * 3
    assert (tmp_path / "log").read_text() == "built\n"
    assert left(artifact) == [artifact.path.name, seal_path(artifact.path).name]
