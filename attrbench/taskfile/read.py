"""Reading and validation of a task file; errors name the file, the line and the problem."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from attrbench.contracts.options import kinds_of
from attrbench.errors import UsageError
from attrbench.taskfile.contents import TaskFile
from attrbench.taskfile.file_task import FileTask


def read_task(path: Path, given: Mapping[str, str]) -> FileTask:
    """Read and validate a task file, apply options of the command line, and return the task.

    Args:
        path: path of the file.
        given: options that override the file: `TABLE.KEY` -> value; `query_set` -> `tuning` takes the queries of
            `[tuning]`.

    Raises:
        UsageError: where the file is missing or invalid; names the file, and the line or table in it.
    """
    text = _text(path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {str(error)[:1].lower()}{str(error)[1:]}") from None
    query_set = given.get("query_set", "reported")
    if query_set not in ("reported", "tuning"):
        raise UsageError(f"{path}: query_set={query_set}: reported or tuning")
    for key, value in given.items():
        if key != "query_set":
            _set(document, path, key, value)
    _refuse_truth_values(document, path, text)
    try:
        contents = TaskFile.model_validate(document)
    except ValidationError as error:
        raise UsageError(_complaint(path, text, error, given)) from None
    task = FileTask(contents, path)
    return task.with_tuning_queries() if query_set == "tuning" else task


def _text(path: Path) -> str:
    if not path.name.endswith(".toml"):
        raise UsageError(f"{path} is no task file: its name must end in .toml (make one with 'attrbench new task')")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        names = [entry.name for entry in path.parent.glob("*.toml")]
        near = get_close_matches(path.name, names, n=1, cutoff=0.6)
        hint = f"did you mean {path.parent / near[0]}?" if near else "make one with 'attrbench new task'"
        raise UsageError(f"there is no task file {path}: {hint}") from None
    except OSError as error:
        raise UsageError(f"cannot read the task file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def _refuse_truth_values(document: Mapping[str, Any], path: Path, text: str) -> None:
    """Raise an error for `true` or `false` where a number is asked for: pydantic would take it for 1 or 0."""
    for name, table in document.items():
        model = _inner(TaskFile, name)
        fields = {} if model is None or not isinstance(table, dict) else model.model_fields
        for key, value in table.items() if fields else ():
            if isinstance(value, bool) and key in fields:
                kinds = set(kinds_of(fields[key].annotation))
                if kinds & {int, float} and bool not in kinds:
                    line = _line_of(text, [name], key)
                    where = f"{path}{f', line {line}' if line else ''}: [{name}]"
                    raise UsageError(f"{where}: {key}: a number is asked for, not {str(value).lower()}")


def _set(document: dict[str, Any], path: Path, key: str, value: str) -> None:
    """Set an option `TABLE.KEY=VALUE` of the command line in the parsed task file."""
    *tables, last = key.split(".")
    if not tables:
        raise UsageError(f"{path}: '{key}={value}': options of a task file are TABLE.KEY=VALUE (model.resolution=256)")
    for table in tables:
        document = document.setdefault(table, {})
        if not isinstance(document, dict):
            raise UsageError(f"{path}: '{key}={value}': {table} is no table in the file")
    document[last] = None if value == "none" else value


def _complaint(path: Path, text: str, error: ValidationError, given: Mapping[str, str]) -> str:
    """Return an error message for an invalid task file: file, line or table, and what is wrong there."""
    first = error.errors()[0]
    *tables, key = [str(step) for step in _steps(first["loc"])] or [""]
    reason = _reason(first["type"], first["msg"].removeprefix("Value error, "), tables, key)
    option = ".".join([*tables, key])
    if option in given:
        return f"{path}: option {option}={given[option]}: {reason}"
    line = _line_of(text, tables, key)
    table = f"[{'.'.join(tables)}]: " if tables else ""
    return f"{path}{f', line {line}' if line else ''}: {table}{reason}"


def _reason(kind: str, message: str, tables: Sequence[str], key: str) -> str:
    if kind == "extra_forbidden":
        return f"unknown {'key' if tables else 'table'} '{key}'{_nearest(tables, key)}"
    if kind == "missing":
        return f"the key '{key}' is missing" if tables else f"the table [{key}] is missing"
    return f"{key}: {message[:1].lower()}{message[1:]}"


def _steps(location: Sequence[int | str]) -> list[int | str]:
    """Return the keys in the task file that lead to a validation error, without pydantic's additions."""
    steps: list[int | str] = []
    model: type[BaseModel] | None = TaskFile
    for step in location:
        if model is None:
            break
        steps.append(step)
        model = _inner(model, str(step))
    return steps


def _inner(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the pydantic model of a field whose value is a table of the task file; None for other fields."""
    if key not in model.model_fields:
        return None
    kind = model.model_fields[key].annotation
    for choice in (kind, *get_args(kind)):
        if isinstance(choice, type) and issubclass(choice, BaseModel):
            return choice
    return None


def _nearest(tables: Sequence[str], key: str) -> str:
    model: type[BaseModel] | None = TaskFile
    for table in tables:
        model = None if model is None else _inner(model, table)
    known = list(model.model_fields) if model is not None else []
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else f": known are {', '.join(known)}"


def _line_of(text: str, tables: Sequence[str], key: str) -> int | None:
    """Return the number of the line in a task file with a key or table header; None if not found."""
    here: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$", line)
        if header:
            here = [part.strip().strip("\"'") for part in header[1].split(".")]
            if here == [*tables, key]:
                return number
        elif here == list(tables) and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
            return number
    return None
