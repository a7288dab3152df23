"""Closed, full and broken streams, and arguments that no file system knows, end in one line or quietly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import attrbench as package
from attrbench.contracts.record import record_path
from attrbench.errors import UsageError
from tests.cli.conftest import SMALL

CODE = "import sys; sys.argv[0] = 'attrbench'\nfrom attrbench.cli.app import main\nmain()"
COMMANDS = [["list", "--json"], ["--help"]]
"""One that is answered without Typer, and one that Typer answers."""


def shell(arguments, redirection, **environment):
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, **environment},
    )
    ours = [line for line in done.stderr.splitlines() if line.startswith("attrbench:")]
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    return done.returncode, ours, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_pipe_that_nobody_reads_ends_quietly_with_the_code_of_a_broken_pipe(arguments):
    code, complaints, _ = shell(arguments, "| true; exit ${PIPESTATUS[0]}")
    assert (code, complaints) == (141, [])


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_full_output_is_one_line(arguments):
    code, complaints, _ = shell(arguments, "> /dev/full")
    assert (code, complaints) == (1, ["attrbench: error: cannot write to standard output: No space left on device"])


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_closed_output_is_one_line(arguments):
    code, complaints, _ = shell(arguments, ">&-")
    assert code == 1
    assert complaints == ["attrbench: error: standard output is closed: send it to a file, or to /dev/null"]


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full"])
@pytest.mark.parametrize(("arguments", "code"), [(["list"], 0), (["lisst"], 2), (["run", "-m", "x\n", "-t", "y"], 2)])
def test_an_error_stream_that_takes_nothing_changes_no_exit_code(arguments, code, redirection):
    assert shell(arguments, redirection)[0] == code


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["list"], ["run", "-m", "dmïn", "-t", "ünknown"]])
def test_an_ascii_locale_writes_codes_for_what_it_lacks(arguments):
    code, complaints, _ = shell(arguments, "", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert code == (2 if complaints else 0)
    assert all(line.isascii() for line in complaints)


def test_a_nul_character_is_wrong_usage(attrbench):
    for arguments in (["run", "-m", "random", "-t", "a\0b.toml"], ["list", "\0"], ["leaderboard", "a\0b"]):
        done = attrbench(*arguments)
        assert done.code == 2
        assert len(done.err.splitlines()) == 1 and "NUL" in done.err and "\0" not in done.err
    with pytest.raises(UsageError, match="NUL"):
        package.run("random", "a\0b.toml")


def test_terminal_escapes_in_an_argument_are_not_written_back(attrbench, tmp_path):
    for arguments in (["run", "-m", "\x1b[2J", "-t", "x"], ["leaderboard", "--\x1b[2J"], ["leaderboard", "\x1b[2J"]):
        done = attrbench(*arguments)
        assert done.code in (1, 2)
        assert "\x1b" not in done.err and done.err.strip()


@pytest.mark.parametrize("rerun", [[], ["--rerun"]])
def test_a_folder_at_the_path_of_a_record_is_named_before_anything_is_computed(attrbench, tmp_path, rerun):
    arguments = ["run", "-m", "random", *SMALL, "--out", tmp_path]
    assert attrbench(*arguments).code == 0
    (path,) = tmp_path.glob("digits-mini/*.json")
    identity = json.loads(path.read_text())["identity"]
    assert record_path(tmp_path, "digits-mini", "random", identity) == path
    path.unlink()
    path.mkdir()
    done = attrbench(*arguments, *rerun)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1 and str(path) in done.err
    assert path.is_dir()


def test_what_a_plugin_prints_at_import_goes_to_standard_error(tmp_path):
    module = (
        "import os\nprint('noise of Python')\nos.write(1, b'noise of C\\n')\nos.system('echo noise of a child')\n"
        "def register_methods(register):\n    print('noise of a hook')\n    register('loud', 'loud', 'loudly:Loud')\n"
    )
    (tmp_path / "loudly.py").write_text(module)
    folder = tmp_path / "loudly-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: loudly\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[attrbench]\nloudly = loudly\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", CODE, "list", "methods", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path, "ATTRBENCH_LOAD_PLUGINS": "loudly"},
        cwd=Path(__file__).parent,
    )
    assert [entry["name"] for entry in json.loads(done.stdout)["methods"]] == ["loud"]
    for noise in ("Python", "C", "a child", "a hook"):
        assert f"noise of {noise}" in done.stderr
