"""Reading of a task file's prompts and seeds, from a list or from a text or CSV file beside it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from attrbench.data.manifest import need_column
from attrbench.errors import AttrbenchError
from attrbench.taskfile.contents import QueryTable, seeds_of


class Draw(NamedTuple):
    """An image that the model must generate: its prompt, seed and group."""

    prompt: str
    seed: int
    group: str = ""

    @property
    def name(self) -> str:
        """Return a description of the image (seed and prompt) for messages."""
        return f"seed {self.seed}" + (f" of '{self.prompt}'" if self.prompt else "")


def draws_of(queries: QueryTable, folder: Path) -> list[Draw]:
    """Return the images to generate: one for each prompt and seed; without prompts, one for each seed.

    Raises:
        AttrbenchError: where a file of prompts is missing or wrong.
    """
    seeds = seeds_of(queries.seeds)
    if queries.prompts is None:
        groups = queries.groups or [""] * len(seeds)
        return [Draw("", seed, group) for seed, group in zip(seeds, groups, strict=True)]
    prompts, labels = _prompts(queries, folder)
    return [Draw(prompt, seed, group) for prompt, group in zip(prompts, labels, strict=True) for seed in seeds]


def common_query(one: QueryTable, other: QueryTable, folder: Path) -> str:
    """Name a query that two query tables share, so that tuning on reported queries is refused; empty if none."""
    drawn = [{draw[:2] for draw in draws_of(queries, folder)} if queries.draws else set() for queries in (one, other)]
    for prompt, seed in sorted(drawn[0] & drawn[1]):
        return Draw(prompt, seed).name
    images = [
        (source.model_copy(update={"path": str((folder / Path(source.path).expanduser()).resolve())}))
        for queries in (one, other)
        if (source := queries.images) is not None
    ]
    return f"what is in {images[0].path}" if len(images) == 2 and images[0] == images[1] else ""


def prompt_file(queries: QueryTable | None, folder: Path) -> Path | None:
    """Return the path of the text or CSV file with the prompts; None if the task file lists them itself."""
    if queries is None or not isinstance(queries.prompts, str):
        return None
    return folder / Path(queries.prompts).expanduser()


def _prompts(queries: QueryTable, folder: Path) -> tuple[Sequence[str], Sequence[str]]:
    if isinstance(queries.prompts, list):
        return queries.prompts, queries.groups or [""] * len(queries.prompts)
    file = prompt_file(queries, folder)
    assert file is not None
    prompts, named = _read(file)
    if queries.groups is None:
        return prompts, named or [""] * len(prompts)
    if named is not None:
        raise AttrbenchError(f"{file} has a column 'group', and the task file gives groups too: keep one of them")
    if len(queries.groups) != len(prompts):
        raise AttrbenchError(f"{len(queries.groups)} groups for {len(prompts)} prompts in {file}")
    return prompts, queries.groups


def _read(file: Path) -> tuple[list[str], list[str] | None]:
    """Return the prompts in a text or CSV file, and their groups if the CSV has a column `group`."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = (
            "is a prompt meant? Write prompts as a list" if isinstance(error, FileNotFoundError) else error.strerror
        )
        raise AttrbenchError(f"cannot read the prompts in {file}: {reason}") from None
    except UnicodeDecodeError as error:
        raise AttrbenchError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    if file.suffix.lower() != ".csv":
        prompts, groups = [line.strip() for line in text.splitlines() if line.strip()], None
    else:
        prompts, groups = _read_csv(file, text)
    if not prompts:
        raise AttrbenchError(f"there are no prompts in {file}")
    return prompts, groups


def _read_csv(file: Path, text: str) -> tuple[list[str], list[str] | None]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    columns = list(reader.fieldnames or ())
    need_column(columns, "prompt", "the prompts", str(file))
    try:
        rows = list(reader)
    except csv.Error as error:
        raise AttrbenchError(f"{file}, after line {reader.line_num}: {error}") from None
    prompts = [row["prompt"] or "" for row in rows]
    return prompts, [row["group"] or "" for row in rows] if "group" in columns else None
