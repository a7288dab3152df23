"""`attrbench new method|task|metric` writes a package that works once it is installed."""

import json
import subprocess
import sys

import pytest

from tests.installing import environment, install, need_pip

KINDS = ("method", "task", "metric")
GRADIENTS = ("--features", "gradients")
STARTS = {kind: (kind,) for kind in KINDS} | {"gradient-method": ("method", *GRADIENTS)}


@pytest.mark.slow
def test_the_packages_are_found_as_plugins_and_pass_their_own_tests(attrbench, tmp_path):
    need_pip()
    for kind in KINDS:
        assert attrbench("new", kind, f"my-{kind}", "--out", tmp_path).code == 0
    assert attrbench("new", "method", "my-gradients", *GRADIENTS, "--out", tmp_path).code == 0
    packages = [tmp_path / f"attrbench-my-{name}" for name in (*KINDS, "gradients")]
    env = environment(*install(tmp_path / "installed", *packages), ATTRBENCH_CACHE=str(tmp_path / "cache"))

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    listed = json.loads(python("-m", "attrbench", "list", "--json").stdout)
    for kind in KINDS:
        providers = {entry["name"]: entry["provider"] for entry in listed[f"{kind}s"]}
        assert providers[f"my-{kind}"] == f"attrbench-my-{kind} 0.1.0"
    modules = ("--import-mode", "importlib")  # both methods have a test_method.py
    places = [str(package / "tests") for package in packages]
    tested = python("-m", "pytest", "-q", "-p", "no:cacheprovider", *modules, *places)
    assert tested.returncode == 0, tested.stdout
    assert "8 passed" in tested.stdout  # two of each method, one of the task, three of the metric


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_it_wrote_and_what_to_do(attrbench, kind, tmp_path):
    done = attrbench("new", kind, "my-first", "--out", tmp_path)
    *written, then = done.out.splitlines()
    assert len(written) == 5 and all(line.startswith(str(tmp_path / "attrbench-my-first")) for line in written)
    assert then.startswith(f"install it with 'pip install -e {tmp_path / 'attrbench-my-first'}', then 'attrbench ")


@pytest.mark.parametrize("name", ["2hop", "42", "b_c", "Mixed-Case", "task"])
def test_any_name_that_the_command_line_takes_gives_python_that_compiles(attrbench, name, tmp_path):
    for start, (kind, *more) in STARTS.items():
        assert attrbench("new", kind, name, *more, "--out", tmp_path / start).code == 0
        for path in tmp_path.rglob("*.py"):
            compile(path.read_text(), str(path), "exec")


def test_no_line_of_a_package_is_longer_than_ours(attrbench, tmp_path):
    for start, (kind, *more) in STARTS.items():
        attrbench("new", kind, "a-name-of-twenty-one", *more, "--out", tmp_path / start)
    for path in tmp_path.rglob("*.py"):
        assert max(map(len, path.read_text().splitlines())) <= 120, path


@pytest.mark.parametrize(
    ("kind", "name", "code", "line"),
    [
        ("method", "dmin", 2, "'dmin' is a method of attrbench "),
        ("metric", "recall", 2, "'recall' is a metric of attrbench "),
        ("task", "digits-mini", 2, "'digits-mini' is a task of attrbench "),
        ("method", "a b", 1, "method name 'a b' is not allowed"),
        ("method", "tasks", 2, "there is a package attrbench_tasks already"),
        ("task", "a/b", 2, "the name of a task file ends in .toml"),
    ],
)
def test_a_name_that_is_taken_or_not_allowed_is_refused(attrbench, kind, name, code, line, tmp_path):
    done = attrbench("new", kind, name, "--out", tmp_path)
    assert done.code == code and line in done.err
    assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_there_stays_unless_forced(attrbench, tmp_path):
    attrbench("new", "metric", "mine", "--out", tmp_path)
    own = tmp_path / "attrbench-mine" / "attrbench_mine" / "metric.py"
    own.write_text("mine")
    done = attrbench("new", "metric", "mine", "--out", tmp_path)
    assert done.code == 1 and "is there already" in done.err and own.read_text() == "mine"
    assert attrbench("new", "metric", "mine", "--out", tmp_path, "--force").code == 0
    assert own.read_text() != "mine"


def test_a_family_is_of_task_files_alone(attrbench, tmp_path):
    done = attrbench("new", "task", "mine", "--family", "ddpm", "--out", tmp_path)
    assert done.code == 2 and "--family is of task files" in done.err
