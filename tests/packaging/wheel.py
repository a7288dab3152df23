"""Build the wheel, install it into a bare environment, and use it from there as a newcomer would.

    python tests/packaging/wheel.py --torch torch==2.13.0

Needs the standard library and pip only. Prints each step; exits 1 at the first that fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGES = {
    "attrbench": ".",
    "attrbench_methods": "plugins",
    "attrbench_tasks": "tasks",
    "attrbench_suites": "leaderboards",
}
"""Package -> folder of the repository that it lies in."""


def build_wheel(folder: Path, *arguments: str) -> Path:
    """Build the wheel below `folder` from a copy of the sources, and return its path.

    A copy, because setuptools leaves a folder `build` behind, whose files would be in the next wheel.
    """
    sources = folder / "sources"
    for package, place in PACKAGES.items():
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / place / package, sources / place / package, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, *arguments, "--wheel-dir", folder / "dist", sources], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def missing_files(wheel: Path) -> list[str]:
    """Return the files of the packages that are not in the wheel: modules, weights, data, JSON, type markers."""
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    expected = {
        file.relative_to(ROOT / place).as_posix()
        for package, place in PACKAGES.items()
        for file in (ROOT / place / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    return sorted(expected - packed)


def use(folder: Path, wheel: Path, torch: str) -> None:
    """Install the wheel into a new environment and run it in an empty folder, out of reach of the checkout."""
    home, work = folder / "environment", folder / "work"
    work.mkdir()
    venv.create(home, with_pip=True)
    bin_ = home / ("Scripts" if os.name == "nt" else "bin")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def call(*command: str | Path) -> str:
        print("$", Path(command[0]).name, *command[1:], flush=True)  # noqa: T201
        done = subprocess.run(command, cwd=work, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    pip = (bin_ / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    call(*pip, torch)
    call(*pip, wheel)
    listing = json.loads(call(bin_ / "attrbench", "list", "--json"))
    broken = [plugin for plugin in listing["plugins"] if plugin["error"]]
    assert not broken, f"plugins do not load: {broken}"
    assert {"pixel", "random"} <= {method["name"] for method in listing["methods"]}
    place = call(bin_ / "python", "-c", "import attrbench; print(attrbench.__file__)")
    assert Path(place.strip()).is_relative_to(home), f"what ran was not the wheel but {place}"
    call(bin_ / "attrbench", "run", "-t", "digits-mini", "-m", "pixel", "-m", "random")
    records = [json.loads(file.read_text()) for file in (work / "attrbench-results" / "digits-mini").glob("*.json")]
    statuses = {record["method"]["name"]: record["status"] for record in records}
    assert statuses == {"pixel": "complete", "random": "complete"}, statuses
    print(call(bin_ / "attrbench", "leaderboard", "--format", "md"))  # noqa: T201
    print(call(bin_ / "attrbench", "reproduce", "table7", "--scale", "mini", "--format", "md"))  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="torch", help="what pip installs as PyTorch")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attrbench-wheel-") as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)  # noqa: T201
        missing = missing_files(wheel)
        assert not missing, f"not in the wheel: {missing}"
        use(folder, wheel, arguments.torch)


if __name__ == "__main__":
    main()
