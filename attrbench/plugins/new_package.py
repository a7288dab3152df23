"""The files of a new plugin package with one method, task or metric, which `attrbench new` writes."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import PurePosixPath
from string import Template
from typing import TYPE_CHECKING, Literal

from attrbench.errors import UsageError
from attrbench.plugins.registry import check_name

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry

Kind = Literal["method", "task", "metric"]
Start = Literal["method", "gradient-method", "task", "metric"]
"""What a package has as it stands: one of each kind, and a second method, of gradients."""
SUMMARIES: dict[Start, str] = {
    "method": "negative difference of the images' mean brightness",
    "gradient-method": "median over timesteps of the cosines of gradients",
    "task": "40 gray 8x8 images in two groups, and an untrained DDPM",
    "metric": "reciprocal rank of the first item of the query's group",
}


def distribution_name(name: str) -> str:
    """Return the name of the package, and of its folder, for a method, task or metric called `name`."""
    return f"attrbench-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"


def package_files(registry: Registry, kind: Kind, name: str, start: Start | None = None) -> dict[PurePosixPath, str]:
    """Return the files of a package with one method, task or metric, by their paths in the package's folder.

    They are pyproject.toml with the entry point, a module with a class that works as it stands, a test that runs the
    checks, and README.md.

    Args:
        registry: the plugins, whose names are taken.
        kind: what the package brings.
        name: its name on command lines.
        start: what it does as it stands; by default what the kind is called.

    Raises:
        AttrbenchError: for a name that the command line could not parse.
        UsageError: for a name that is taken.
    """
    check_name(kind, name)
    if name in registry.names(kind):
        owner = registry.provider(kind, name)
        raise UsageError(f"'{name}' is a {kind} of {owner.distribution} {owner.version} already: choose another name")
    distribution = distribution_name(name)
    module = distribution.replace("-", "_")
    if find_spec(module) is not None:
        raise UsageError(
            f"there is a package {module} already, which a {kind} '{name}' would be in: choose another name"
        )
    start = kind if start is None else start
    stem = "".join(part.capitalize() for part in module.split("_")[1:]).lstrip("0123456789")
    words = {
        "kind": kind,
        "name": name,
        "distribution": distribution,
        "module": module,
        "class_name": f"{stem[:1].upper()}{stem[1:]}{kind.title()}" if stem else f"My{kind.title()}",
        "summary": SUMMARIES[start],
    }
    sources = {
        "pyproject.toml": "pyproject.toml",
        "README.md": f"{start}.md",
        f"{module}/__init__.py": "__init__.py",
        f"{module}/{kind}.py": f"{start}.py",
        f"tests/test_{kind}.py": f"test_{start}.py",
    }
    return {PurePosixPath(path): _template(source).substitute(words) for path, source in sources.items()}


def _template(name: str) -> Template:
    """Return a template of this package; `$name` stands for what is filled in, `$$` for a dollar."""
    return Template(files(__package__).joinpath("templates", f"{name}.txt").read_text(encoding="utf-8"))
