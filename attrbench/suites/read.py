"""Reading of suite files: errors are one line that names the file and the place in it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel, ValidationError

from attrbench.contracts.options import kinds_of
from attrbench.errors import UsageError
from attrbench.suites.contents import SuiteFile, TaskTable
from attrbench.suites.names import suite_path
from attrbench.suites.paper import Paper, PaperTable, read_paper, table_of
from attrbench.text import one_line


@dataclass(frozen=True)
class Suite:
    """A suite that was read: its name, its contents, and the paper's numbers for it."""

    name: str
    file: SuiteFile
    paper: Paper
    table: PaperTable

    def scale(self, given: str | None, has_gpu: bool) -> str:
        """Return the scale to run at: the given one; else `paper` with a GPU, `mini` without, as far as there are.

        Raises:
            UsageError: for a scale that the suite does not have.
        """
        known = self.file.scales
        if given is None:
            usual = "paper" if has_gpu else "mini"
            return usual if usual in known else next(iter(known))
        if given not in known:
            raise UsageError(f"suite {self.name} has no scale '{one_line(given)}'; it has {', '.join(known)}")
        return given


def read_suite(name: str) -> Suite:
    """Return the suite of a name or path, after checking that the paper has the numbers that it names.

    Raises:
        UsageError: one line, for a suite that is missing or has faults.
    """
    path = suite_path(name)
    try:
        file = SuiteFile.model_validate(tomllib.loads(path.read_bytes().decode("utf-8-sig")))
    except ValidationError as error:
        raise UsageError(f"{one_line(path)}: {_complaint(error)}") from None
    except OSError as error:
        raise UsageError(f"cannot read the suite {one_line(path)}: {error.strerror}") from None
    except ValueError as error:  # no TOML, no UTF-8
        raise UsageError(f"{one_line(path)} is not valid TOML: {one_line(error)}") from None
    paper = read_paper(path.parent / file.paper)
    table = table_of(paper, file.table)
    for row, column in looked_up(file):
        if row not in table.rows:
            raise UsageError(f"{one_line(path)}: {file.table} of the paper has no row '{row}'{_near(row, table.rows)}")
        if column not in table.columns:
            near = _near(column, table.columns)
            raise UsageError(f"{one_line(path)}: {file.table} of the paper has no column '{column}'{near}")
    return Suite(path.stem, file, paper, table)


def looked_up(file: SuiteFile) -> Iterator[tuple[str, str]]:
    """Yield row and column of the paper's cells that a suite names."""
    columns = [column.paper for column in file.columns if column.paper]
    if file.grid is not None:
        for part in file.grid.parts:
            for row in file.grid.rows:
                yield from ((f"{part}/{group}/{row}", str(column)) for group in columns for column in file.grid.columns)
    elif file.layout == "recipe":
        yield from ((task.paper, column) for task in file.tasks for column in columns)
    else:
        for task in file.tasks:
            yield from _of_task(file, task, [column.paper for column in file.columns_of(task) if column.paper])


def _of_task(file: SuiteFile, task: TaskTable, columns: list[str]) -> Iterator[tuple[str, str]]:
    for row in (row.paper for row in file.rows_of(task) if row.paper):
        for column in columns:
            if file.layout == "metric":
                yield from ((f"{task.paper}/{row}" if task.paper else row, f"{column}@{k}") for k in file.k)
            elif file.layout in ("storage", "time"):
                yield row, f"{task.paper}/{column}"
            else:
                yield row, column


def _complaint(error: ValidationError) -> str:
    """Return what is wrong in a suite file: the place, and the nearest known key."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(step + 1) if isinstance(step, int) else step for step in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {one_line(place)}{_near(str(first['loc'][-1]), _keys(first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"{place} is missing"
    reason = first["msg"].removeprefix("Value error, ")
    return one_line(f"{place}: {reason[:1].lower()}{reason[1:]}" if place else reason)[:400]


def _keys(place: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the table of a suite file at a place."""
    model: type[BaseModel] = SuiteFile
    for step in place:
        if isinstance(step, str) and step in model.model_fields:
            kinds = kinds_of(model.model_fields[step].annotation)
            inner = [kind for outer in kinds for kind in (outer, *get_args(outer)) if isinstance(kind, type)]
            model = next((kind for kind in inner if issubclass(kind, BaseModel)), model)
    return list(model.model_fields)


def _near(name: str, known: object) -> str:
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)  # type: ignore[call-overload]
    return f": did you mean {near[0]}?" if near else ""
