"""Wrong input ends in one line that says what, where and what to do, with the right exit code."""

import errno
import os

import pytest

from tests.cli.conftest import SMALL


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "dmin:vv=4096", "-t", "ddpm-mnist-mini"], ["vv", "did you mean v?"]),
        (["-m", "dmim", "-t", "digits-mini"], ["unknown method 'dmim'", "did you mean dmin"]),
        (["-m", "dmin", "-t", "digit-mini"], ["unknown task 'digit-mini'", "did you mean digits-mini"]),
        (["-m", "dmin:v=-3", "-t", "digits-mini"], ["v=-3", "greater than or equal to 1"]),
        (["-m", "dmin:v=", "-t", "digits-mini"], ["'v='", "KEY=VALUE"]),
        (["-m", "dmin:v=1,v=2", "-t", "digits-mini"], ["'v' is given twice"]),
        (["-m", "dmin:k=1501", "-t", "digits-mini"], ["k=1501", "larger than the training set (1500 items)"]),
        (["-m", "dmin:k=51", "-t", "digits-mini", "--limit-train", "50"], ["k=51", "(50 items)"]),
        (["-m", "dmin:search=annoy", "-t", "digits-mini"], ["search=annoy", "'exact', 'hnsw' or 'faiss'"]),
        (["-m", "dmin:v=none,search=hnsw", "-t", "digits-mini"], ["search=hnsw needs a sketch"]),
        (["-m", "dmin:search=faiss,index=Foo", "-t", "digits-mini"], ["'Foo'", "could not parse"]),
        (["-m", "random", "-t", "digits-mini:queries_per_group=0"], ["queries_per_group=0"]),
        (["-m", "random", "-t", "digits-mini", "--limit-train", "0"], ["--limit-train", "at least 1"]),
        (["-m", "random", "-t", "digits-mini", "--executor", "inlin"], ["unknown executor", "did you mean inline?"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(attrbench, tmp_path, arguments, words):
    done = attrbench("run", *arguments, "--out", tmp_path)
    assert done.code == 2
    assert len(done.complaint) == 1
    assert len(done.err.splitlines()) == 1
    for word in words:
        assert word in done.err
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("flag", ["--out", "--cache"])
def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_computed(attrbench, tmp_path, flag):
    blocked = tmp_path / "file"
    blocked.touch()
    folders = {"--out": tmp_path / "out", "--cache": tmp_path / "cache"} | {flag: blocked / "below"}
    done = attrbench("run", "-m", "random", *SMALL, *(part for pair in folders.items() for part in pair))
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert str(blocked) in done.err
    assert flag in done.err


def test_an_unavailable_device_is_one_line(attrbench, tmp_path):
    done = attrbench("run", "-m", "random", "-t", "digits-mini", "--device", "nonsense", "--out", tmp_path)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "nonsense" in done.err


def test_a_missing_option_names_it_and_exits_2(attrbench):
    done = attrbench("run", "-t", "digits-mini")
    assert done.code == 2
    assert "--method" in done.err
    assert "Traceback" not in done.err


def test_leaderboard_without_records_says_what_to_do(attrbench, tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        done = attrbench("leaderboard", folder)
        assert done.code == 1
        assert "attrbench run" in done.err


def test_an_unexpected_error_is_one_line_without_traceback(attrbench, tmp_path, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr("attrbench.api.request_tasks", broken)
    done = attrbench("run", "-m", "random", *SMALL, "--out", tmp_path)
    assert done.code == 1
    assert done.err.splitlines() == [
        "attrbench: error: ZeroDivisionError: by chance (run again with --debug for the traceback)"
    ]


def test_a_file_operation_that_fails_where_none_is_expected_to_names_the_file_and_what_to_do(
    attrbench, tmp_path, monkeypatch
):
    def broken(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(tmp_path / "file"))

    monkeypatch.setattr("attrbench.api.request_tasks", broken)
    done = attrbench("run", "-m", "random", *SMALL, "--out", tmp_path)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith(f"attrbench: error: {tmp_path / 'file'}: Input/output error")
    assert "run the same command again" in line
    assert "--debug" not in line
