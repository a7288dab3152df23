"""A cache that the user can't write to answers new queries; what is new lies in the user's own cache."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import attrbench as package
from tests.cli.conftest import SMALL
from tests.store.filled_caches import snapshot

METHOD = ("-m", "dmin:timesteps=2,v=32")
DROP_BOUND, CAPABILITIES = 24, (1, 2, 3)
"""Of Linux: the call that takes a capability from children, and those by which root may write anywhere."""


def obey_permissions():
    """Take from a child process of root what lets it write to files that nobody may write to."""
    if os.getuid() == 0:
        for capability in CAPABILITIES:
            if ctypes.CDLL(None).prctl(DROP_BOUND, capability, 0, 0, 0):
                raise OSError("root keeps its rights here")


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache with the rows of a training set, which nobody may write to."""
    folder = tmp_path_factory.mktemp("shared")
    package.run(METHOD[1], SMALL[1], out=folder.parent / "out", cache=folder, limit_train=128, progress=False)
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


def command(environment, out, *arguments):
    """Run a command in a process of its own, which must obey the permissions of files."""
    return subprocess.run(
        [sys.executable, "-m", "attrbench", *arguments, *(("--out", str(out)) if arguments[0] != "cache" else ())],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        preexec_fn=obey_permissions,
        check=False,
    )


def picture(folder):
    path = folder / "new.png"
    Image.linear_gradient("L").resize((8, 8)).save(path)
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="how root gives up its rights is known for Linux only")
def test_a_new_query_is_answered_and_no_training_row_is_computed(filled, attrbench, tmp_path):
    before = snapshot(filled)
    own = tmp_path / "home" / ".cache"
    environment = {"ATTRBENCH_CACHE": str(filled), "XDG_CACHE_HOME": str(own)}
    asked = ("attribute", *METHOD, *SMALL, "-k", "3", "--image", str(picture(tmp_path)), "--json")
    done = command(environment, tmp_path / "out", *asked)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is only read") == 1
    assert "query gradients" in done.stderr and "train gradients" not in done.stderr
    assert snapshot(filled) == before
    assert [path.parent.parent.name for path in own.rglob("*.safetensors")] == ["features"]
    fresh = attrbench(*asked, "--cache", tmp_path / "fresh", "--out", tmp_path / "out2")
    assert [line for line in done.stdout.splitlines() if "sheet" not in line and ".png" not in line] == [
        line for line in fresh.out.splitlines() if "sheet" not in line and ".png" not in line
    ]
    removal = command(environment, tmp_path, "cache", "gc", "--older-than", "0")
    assert removal.returncode in (0, 1), removal.stderr
    assert snapshot(filled) == before


def test_a_run_reads_the_named_cache_and_writes_to_its_own(filled, attrbench, tmp_path):
    before = snapshot(filled)
    mine = tmp_path / "mine"
    done = attrbench("run", *METHOD, *SMALL, "--out", tmp_path / "out", "--cache", mine, "--read-cache", filled)
    assert done.code == 0, done.err
    assert "0 of 2 shards to compute" in done.err
    assert not list(Path(mine).rglob("*.safetensors"))
    assert snapshot(filled) == before
