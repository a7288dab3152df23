"""The plan of a suite at a scale: its tasks, the methods on each, and the options that a user adds to a task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from attrbench.contracts.options import Spec, parse_spec
from attrbench.errors import UsageError, unknown_name
from attrbench.evaluation.requests import MethodRequest, TaskRequest, request_methods, request_tasks, with_options
from attrbench.plugins.registry import Registry
from attrbench.suites.contents import SuiteFile, TaskTable, at_scale
from attrbench.suites.read import Suite

RequestT = TypeVar("RequestT")


@dataclass(frozen=True)
class Needed:
    """A task of a suite at a scale, with the methods that run on it.

    Attributes:
        table: the task in the suite.
        request: the task at the scale.
        methods: method as the suite writes it, with its placeholders filled in -> its request.
    """

    table: TaskTable
    request: TaskRequest
    methods: Mapping[str, MethodRequest]


def plan(registry: Registry, suite: Suite, scale: str, task_options: Sequence[str] = ()) -> list[Needed]:
    """Return what a suite needs at a scale, with all names and options checked.

    Args:
        registry: the plugins.
        suite: the suite.
        scale: one of its scales.
        task_options: `-t` strings that add options to tasks of the suite: `sd14-lora:lora=FOLDER`.

    Raises:
        UsageError: for an unknown method, task or option, of the suite or of `task_options`.
        AttrbenchError: for a task file that can't be read.
    """
    given = [spec for text in task_options for spec in parse_spec(text)]
    found = []
    for table in suite.file.tasks:
        if label := at_scale(table.task, scale):
            request = _one(request_tasks(registry, [label]), label)
            for spec in (spec for spec in given if spec.name == request.spec.name):
                request = with_options(registry, request, spec.given)
            methods = {
                text: _one(request_methods(registry, [text]), text) for text in _methods(suite.file, table, scale)
            }
            found.append(Needed(table, request, methods))
    _refuse_others(suite, scale, given, found)
    return found


def _refuse_others(suite: Suite, scale: str, given: Sequence[Spec], found: Sequence[Needed]) -> None:
    if not found:
        raise UsageError(f"suite {suite.name} has no task at the scale '{scale}'")
    known = {needed.request.spec.name for needed in found}
    for spec in given:
        if spec.name not in known:
            raise unknown_name(f"task of suite {suite.name} at the scale '{scale}'", spec.name, known)


def _one(requests: Sequence[RequestT], text: str) -> RequestT:
    if len(requests) != 1:
        raise UsageError(f"'{text}': a suite names one at a time, no a|b and no 'all'")
    return requests[0]


def _methods(file: SuiteFile, table: TaskTable, scale: str) -> Iterator[str]:
    """Yield the methods of a suite on a task, without doubles, as far as they run at the scale."""
    seen = set()
    for text in _written(file, table, scale):
        if text and text not in seen:
            seen.add(text)
            yield text


def _written(file: SuiteFile, table: TaskTable, scale: str) -> Iterator[str]:
    if file.layout != "counts":
        yield from (filled(at_scale(row.method, scale), table.values) for row in file.rows_of(table))
    if file.grid is not None:
        for part in file.grid.parts:
            for row in file.grid.rows:
                yield from (grid_method(file, table, scale, part, row, column) for column in file.grid.columns)


def grid_method(file: SuiteFile, table: TaskTable, scale: str, part: int, row: int, column: int) -> str:
    """Return the method of one cell of a grid."""
    assert file.grid is not None
    places = {"part": str(part), "row": str(row), "column": str(column)}
    return filled(at_scale(file.grid.method, scale), {**table.values, **places})


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return a method's string with each `{KEY}` replaced by its value.

    Raises:
        UsageError: for a key without a value.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UsageError(f"'{text}': the task has no value {match[0]}; it has {', '.join(values) or 'none'}")
        return values[match[1]]

    return re.sub(r"\{(\w*)\}", value, text)
