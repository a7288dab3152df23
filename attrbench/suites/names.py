"""The suites that ship with attrbench: where they lie, their names and titles; nothing heavy is imported."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from attrbench.errors import UsageError, error_line, unknown_name

PACKAGE = "attrbench_suites"
"""The folder `leaderboards/attrbench_suites` of a checkout; in a wheel a package of data files."""


def shipped_suites() -> dict[str, Path]:
    """Return name -> file of the suites that ship with attrbench, in the order of names and numbers."""
    beside = Path(__file__).parents[2] / "leaderboards" / PACKAGE
    spec = None if beside.is_dir() else find_spec(PACKAGE)
    places = [beside] if spec is None else map(Path, spec.submodule_search_locations or ())
    files: dict[str, Path] = {}
    for file in (file for place in places for file in place.glob("*.toml")):
        files.setdefault(file.stem, file)  # an import would take the first place, too
    return {name: files[name] for name in sorted(files, key=_in_order)}


def _in_order(name: str) -> tuple[str, int]:
    number = re.search(r"\d+$", name)
    return name[: number.start()] if number else name, int(number[0]) if number else 0


def titles() -> Mapping[str, str]:
    """Return name -> title of the suites that ship with attrbench; of one that can't be read, what is wrong."""
    found = {}
    for name, path in shipped_suites().items():
        try:
            found[name] = str(tomllib.loads(path.read_text(encoding="utf-8")).get("title", ""))
        except (OSError, ValueError) as error:
            found[name] = f"error: {error_line(error)}"
    return found


def is_suite(name: str) -> bool:
    """Return whether a text means a suite and not a record: the name of one that ships, or a file ending in .toml.

    Raises:
        UsageError: for what is nearly the name of a suite, and no file.
    """
    known = shipped_suites()
    if name in known or name.endswith(".toml"):
        return True
    if not Path(name).exists() and get_close_matches(name, known, n=1, cutoff=0.8):
        raise unknown_name("suite", name, known)
    return False


def suite_path(name: str) -> Path:
    """Return the file of a suite that is given by name or path.

    Raises:
        UsageError: where there is none.
    """
    known = shipped_suites()
    if name in known:
        return known[name]
    if not Path(name).is_file():
        raise UsageError(f"there is no suite file {name}; suites that ship: {', '.join(known) or 'none'}")
    return Path(name)
