"""Collect the machine, package versions and code hashes that a record contains."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import psutil
import torch

from attrbench.code_digest import UNKNOWN, class_digest, is_fileless, is_library
from attrbench.contracts.record_costs import Hardware
from attrbench.contracts.record_origin import Provenance
from attrbench.store.fingerprint import fingerprint, folder_digest
from attrbench.version import __version__

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry

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
    "numkong",
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
    """Return the machine's device, processor, cores and memory, and its class, within which times are compared."""
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
    """Return name -> installed version of the packages whose code decides results, such as torch."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def code_digest(*owners: type | str) -> str:
    """Return the hash of attrbench's code and of the code of given classes, which tells records of other code apart.

    Args:
        owners: classes, or names of modules. For a class with a file the whole package counts that its module belongs
            to, data files included; so do the packages of its bases, where these are no libraries. For a class without
            a file (of a notebook or a script) its own code counts, and what it refers to (attrbench.code_digest).

    Returns:
        64 hex digits. It begins with `attrbench.code_digest.UNKNOWN` where something can't be told; a record with
        such a digest answers no later run.
    """
    classes = [owner for owner in owners if isinstance(owner, type)]
    modules = {owner for owner in owners if isinstance(owner, str)} | {kind.__module__ for kind in classes}
    modules |= {base.__module__ for kind in classes for base in kind.__mro__ if not is_library(base.__module__)}
    tops = sorted({"attrbench", *(module.partition(".")[0] for module in modules if not is_fileless(module))})
    parts: list[list[str]] = [[top, _module_digest(top)] for top in tops]
    digests = [digest for kind in classes if (digest := class_digest(kind))]
    unknown = next((digest for digest in digests if digest.startswith(UNKNOWN)), None)
    return unknown or fingerprint(parts + [["class", digest] for digest in digests])


_digests: dict[str, tuple[str, dict[str, object]]] = {}


def _module_digest(module: str) -> str:
    """Return the hash of a top-level module's or package's files, cached until one of its modules is reloaded."""
    prefix = f"{module}."
    if module in _digests:
        digest, specs = _digests[module]
        if all(getattr(sys.modules.get(name), "__spec__", None) is spec for name, spec in specs.items()):
            return digest
    loaded = {name: found for name, found in sys.modules.items() if name == module or name.startswith(prefix)}
    digest = _files_digest(sys.modules.get(module))
    _digests[module] = digest, {name: getattr(found, "__spec__", None) for name, found in loaded.items()}
    return digest


def _files_digest(module: ModuleType | None) -> str:
    file = getattr(module, "__file__", None)
    if file is None:  # a namespace package
        return fingerprint([folder_digest(Path(folder)) for folder in getattr(module, "__path__", [])])
    path = Path(file)
    return folder_digest(path.parent) if path.name == "__init__.py" else fingerprint(path.read_text())


def distribution(registry: Registry, name: str, kind: type) -> str:
    """Return the package and version that a method came with; without a plugin, its module or `notebook`."""
    if name in registry.names("method"):
        plugin = registry.provider("method", name)
        return f"{plugin.distribution} {plugin.version}"
    return "notebook" if is_fileless(kind.__module__) else kind.__module__


def provenance(code: str) -> Provenance:
    """Return the versions of attrbench, Python and packages, the git revision, and the code hash `code`."""
    revision, dirty = git_state()
    return Provenance(
        attrbench=__version__,
        code=code,
        packages=installed_packages(),
        python=platform.python_version(),
        git_revision=revision,
        git_dirty=dirty,
    )


@cache
def git_state(*without: str) -> tuple[str | None, bool | None]:
    """Return revision and dirty flag of the git checkout that this package runs from; None for both outside of one.

    Args:
        without: folders of the checkout whose changes do not count.
    """
    folder = Path(__file__).parents[1]

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
    places = [":/", *(f":(exclude,top){folder}" for folder in without)]
    status = git("status", "--porcelain", "--untracked-files=no", "--", *places)
    return git("rev-parse", "HEAD"), None if status is None else bool(status)
