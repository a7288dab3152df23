"""Where and with what a run took place."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import attrbench
from attrbench.contracts.record import Hardware, Provenance
from attrbench.store.fingerprint import fingerprint, folder_digest

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "tokenizers",
    "peft",
    "datasets",
    "timm",
    "open_clip_torch",
    "numpy",
    "scipy",
    "scikit-image",
    "hnswlib",
    "faiss-cpu",
    "pillow",
    "safetensors",
    "pydantic",
    "pluggy",
)


def hardware(device: torch.device) -> Hardware:
    """The machine, and the class under which leaderboards compare its times."""
    import psutil
    import torch

    processor = _processor()
    cores = os.cpu_count() or 1
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        hardware_class = name
    else:
        name = str(device)
        hardware_class = f"{device.type}, {cores} cores, {processor}"
    return Hardware(
        hardware_class=hardware_class,
        device=name,
        processor=processor,
        cores=cores,
        threads=torch.get_num_threads(),
        memory_bytes=psutil.virtual_memory().total,
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def installed_packages() -> dict[str, str]:
    """Versions of the packages whose code decides results."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def _module_digest(module: str) -> str:
    found = sys.modules.get(module)
    file = getattr(found, "__file__", None)
    if file is None:  # a namespace package
        return fingerprint([folder_digest(Path(folder)) for folder in getattr(found, "__path__", [])])
    path = Path(file)
    return folder_digest(path.parent) if path.name == "__init__.py" else fingerprint(path.read_text())


def code_digest(*modules: str) -> str:
    """Hash of attrbench's sources and those of the packages that `modules` belong to, data files included."""
    tops = sorted({"attrbench", *(module.partition(".")[0] for module in modules)})
    return fingerprint([[top, _module_digest(top)] for top in tops])


def provenance(code: str) -> Provenance:
    """The code that runs; `code` is its digest."""
    revision, dirty = _git()
    return Provenance(
        attrbench=attrbench.__version__,
        code=code,
        packages=installed_packages(),
        python=platform.python_version(),
        git_revision=revision,
        git_dirty=dirty,
    )


@cache
def _git() -> tuple[str | None, bool | None]:
    """Revision and dirty flag of the checkout that this package runs from; None where it is no tracked checkout."""
    folder = Path(attrbench.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    status = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD"), None if status is None else bool(status)
