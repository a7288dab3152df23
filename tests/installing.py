"""Installing a package into a folder of its own, as pip would install it from an index."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def need_pip() -> None:
    """Skip a test where no package can be built."""
    for needed in ("pip", "setuptools"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not importable here, so no package can be built")


def install(package: Path, root: Path) -> Path:
    """Build a copy of the package, so that nothing is left beside it, and return the folder that it is installed in."""
    source, target = root / "sources" / package.name, root / package.name
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    shutil.copytree(package, source, ignore=ignored)
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *flags, "--target", str(target), str(source)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def environment(*folders: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a process that finds the packages in these folders, and nothing set for attrbench."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ATTRBENCH_")}
    path = [str(folder) for folder in folders] + [p for p in [os.environ.get("PYTHONPATH")] if p]
    return inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)} | variables
