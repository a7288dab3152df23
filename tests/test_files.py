import os

import pytest

from attrbench.errors import Interrupted
from attrbench.files import part_path, write_atomically, write_new
from attrbench.store.artifacts import Artifact


@pytest.mark.parametrize("fault", [Interrupted, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_is_cut_off_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, fault, call):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def cut_off(*args):
        raise fault

    target = os if call == "fsync" else type(path)
    monkeypatch.setattr(target, call, cut_off)
    with pytest.raises(fault):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def planted(tmp_path):
    """A file of somebody's, and links to it under each name that a part file of this process has ever had."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / f"file.part-{os.getpid()}").symlink_to(victim)
    (tmp_path / "file.part").symlink_to(victim)
    return victim


@pytest.mark.parametrize("write", [write_atomically, lambda path, data: Artifact(path, "data", "").write_bytes(data)])
def test_a_link_planted_under_the_name_of_a_part_file_is_not_followed(planted, tmp_path, write):
    write(tmp_path / "file", b"new")
    assert planted.read_bytes() == b"precious"
    assert (tmp_path / "file").read_bytes() == b"new" and not (tmp_path / "file").is_symlink()


def test_a_new_file_is_written_over_nothing_and_through_no_link(planted, tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (planted, tmp_path / "file.part", tmp_path / "dangling"):
        with pytest.raises(FileExistsError):
            write_new(path, b"new")
    assert planted.read_bytes() == b"precious" and not (tmp_path / "nowhere").exists()


def test_no_two_part_files_have_the_same_name(tmp_path):
    assert len({part_path(tmp_path / "file") for _ in range(100)}) == 100
