"""Task files: TOML with keys, tables and values that are changed, as `run` reads them."""

from __future__ import annotations

import math
import random
import tomllib
from pathlib import Path
from typing import Any

from attrbench.taskfile.read import read_task
from tests.campaign import mutation
from tests.campaign.bench import Bench
from tests.campaign.children import limited_run
from tests.campaign.option_strings import means

LONG = ("sampling_steps", "seeds")
"""Keys whose large values are right, and cost time in proportion."""


def document(inputs: Path) -> dict[str, Any]:
    """Return a task file with most keys there are."""
    return {
        "task": {"name": "mine", "summary": "a line", "version": 2},
        "model": {"model": f"{inputs}/model", "sampling_steps": 2, "attributed": "all", "dtype": "float32"},
        "train": {"path": f"{inputs}/images", "limit": 9, "group_column": "group", "on_bad_image": "refuse"},
        "queries": {"seeds": [0, 1], "groups": ["even", "odd"]},
        "tuning": {"seeds": "5-6", "groups": ["even", "odd"]},
    }


def toml(value: Any) -> str:
    """Return a value as TOML writes it inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan" if math.isnan(value) else repr(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(part)}" for key, part in value.items()) + "}"
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in str(value)) + '"'


def written(tables: dict[str, Any]) -> str:
    """Return a document as a TOML file, in which a table that is none stands at the top."""
    lines = [f"{toml(key)} = {toml(part)}" for key, part in tables.items() if not isinstance(part, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += [f"[{toml(name)}]", *(f"{toml(key)} = {toml(part)}" for key, part in table.items())]
    return "\n".join(lines) + "\n"


def task_file(bench: Bench, trial: int, chance: random.Random) -> str | None:
    """Give one task file to a dry run: it plans what the file says, or says in one line what is wrong."""
    content = written(mutation.changed(document(bench.inputs), chance)).encode()
    if chance.random() < 0.25:
        content = mutation.data(content, chance)
    folder = bench.folder / "task-files"
    folder.mkdir(exist_ok=True)
    path = folder / f"trial-{trial}.toml"
    path.write_bytes(content)
    done = limited_run(["run", "-m", "pixel", "-t", str(path), "--dry-run", *folders(folder)])
    wrong = done.fault(0, 1, 2)
    if wrong is None and done.code == 0:
        wrong = _changed(path)
    path.unlink()
    return wrong and f"{wrong}\n{content.decode(errors='replace')[:1500]}"


def folders(folder: Path) -> list[str]:
    """Return the flags of cache and results below a folder."""
    return ["--cache", f"{folder}/cache", "--out", f"{folder}/out", "--device", "cpu"]


def _changed(path: Path) -> str | None:
    """Return which key of a file that was taken has another value in the task than in the file."""
    read = read_task(path, {}).options
    for name, table in tomllib.loads(path.read_text(encoding="utf-8-sig")).items():
        for key, said in table.items():
            taken = getattr(getattr(read, name), key)
            if isinstance(said, bool | int | float | str) and not _same(said, taken):
                return f"[{name}] {key} = {said!r} became {taken!r}"
    return None


def _same(said: Any, taken: Any) -> bool:
    if hasattr(taken, "path"):  # a folder in short
        return bool(said == taken.path)
    if isinstance(said, bool) != isinstance(taken, bool):
        return False
    if isinstance(said, str) and not isinstance(taken, str):
        return means(said, taken)  # "3" for 3, as on the command line
    return bool(said == taken)
