"""Installing a package into a folder of its own, as pip would install it from an index."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attrbench.plugins.registry import registry


def need_pip() -> None:
    """Skip a test where no package can be built."""
    for needed in ("pip", "setuptools"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not importable here, so no package can be built")


def install(root: Path, *packages: Path) -> list[Path]:
    """Build copies of packages, which leaves nothing beside them, and return the folder that each is installed in."""
    sources, targets = root / "sources", [root / package.name for package in packages]
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    for package, target in zip(packages, targets, strict=True):
        shutil.copytree(package, sources / package.name, ignore=ignored)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", *flags, "--target", str(target), str(sources / package.name)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return targets


def environment(*folders: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a process that finds the packages in these folders, and nothing set for attrbench."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ATTRBENCH_")}
    path = [str(folder) for folder in folders] + [p for p in [os.environ.get("PYTHONPATH")] if p]
    return inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)} | variables


@contextmanager
def importable(*folders: Path, **variables: str) -> Iterator[pytest.MonkeyPatch]:
    """Let this process find the packages in these folders, as one that was started in `environment`, and forget them.

    Yields:
        What takes back at the end of the `with` block whatever it changes.
    """
    loaded, wanted = set(sys.modules), environment(*folders, **variables)
    with pytest.MonkeyPatch.context() as patch:
        for name in {name for name in os.environ if name.startswith("ATTRBENCH_")} - set(wanted):
            patch.delenv(name)
        for name, value in wanted.items():
            patch.setenv(name, value)
        for folder in reversed(folders):
            patch.syspath_prepend(folder)
        registry.cache_clear()
        try:
            yield patch
        finally:
            registry.cache_clear()
            for name in set(sys.modules) - loaded:
                place = getattr(sys.modules[name], "__file__", None)
                if place is not None and any(Path(place).is_relative_to(folder) for folder in folders):
                    del sys.modules[name]
