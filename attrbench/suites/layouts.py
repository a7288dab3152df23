"""The layouts of tables: which part, row and column each value of a suite stands in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrbench.contracts.task import Trainable
from attrbench.errors import AttrbenchError, error_line
from attrbench.suites.cells import metric_cell, plain_text, seconds_of, storage_cell, time_cell
from attrbench.suites.contents import ColumnTable, Layout, RowTable, TaskTable
from attrbench.suites.plan import Needed, grid_method
from attrbench.suites.table import Cell, Column, Line, Part
from attrbench.suites.world import SuiteWorld


def metric_parts(world: SuiteWorld) -> list[Part]:
    """Return a part for each model: rows are methods, columns a metric at several cut-offs for each group."""
    file = world.file
    columns = [Column(f"Top {k}", _group_title(world, column)) for column in file.columns for k in file.k]
    parts = []
    for table in file.tasks:
        lines = []
        for row in file.rows_of(table):
            key = f"{table.paper}/{row.paper}" if table.paper else row.paper
            record = world.record(table, row)
            cells = [
                metric_cell(
                    world.published(key, f"{column.paper}@{k}"),
                    record,
                    f"{file.metric}@{k}",
                    world.text(column.group),
                )
                for column in file.columns
                for k in file.k
            ]
            lines.append(Line(world.marked(row.name, row.notes), cells))
        parts.append(Part(_task_title(world, table), columns, lines))
    return parts


def _task_title(world: SuiteWorld, table: TaskTable) -> str:
    label = world.label(table)
    name = world.marked(table.name, table.notes)
    return f"{name}; ours: {label}" if label else f"{name}; not run at this scale"


def _group_title(world: SuiteWorld, column: ColumnTable) -> str:
    """Return the name of a group, with that of ours where it is another."""
    group, name = world.text(column.group), world.marked(column.name, column.notes)
    return f"{name}; ours: {group}" if group and group != column.paper else name


def grid_parts(world: SuiteWorld) -> list[Part]:
    """Return a part for each value of the grid's first option and each group: rows and columns are the other two."""
    file, grid = world.file, world.file.grid
    assert grid is not None
    (table,), (k,) = file.tasks, file.k
    columns = [Column(str(column), grid.column_name) for column in grid.columns]
    parts = []
    for part in grid.parts:
        for group in file.columns:
            lines = []
            for row in grid.rows:
                cells = [
                    metric_cell(
                        world.published(f"{part}/{group.paper}/{row}", str(column)),
                        world.runs.record(table.paper, grid_method(file, table, world.scale, part, row, column)),
                        f"{file.metric}@{k}",
                        world.text(group.group),
                    )
                    for column in grid.columns
                ]
                lines.append(Line(f"{grid.row_name} = {row}", cells))
            parts.append(Part(f"{grid.part_name} = {part}, {_group_title(world, group)}", columns, lines))
    return parts


def cost_parts(world: SuiteWorld) -> list[Part]:
    """Return one part of storage or times: rows are methods, columns what is told of each model."""
    file = world.file
    pairs = [(table, column) for table in file.tasks for column in file.columns_of(table)]
    columns = [
        Column(world.marked(column.name, column.notes), world.marked(table.name, table.notes))
        for table, column in pairs
    ]
    lines = [
        Line(world.marked(row.name, row.notes), [_cost_cell(world, table, row, column) for table, column in pairs])
        for row in file.rows
    ]
    return [Part("", columns, lines)]


def _cost_cell(world: SuiteWorld, table: TaskTable, row: RowTable, column: ColumnTable) -> Cell:
    paper = world.published(row.paper, f"{table.paper}/{column.paper}")
    record = world.record(table, row) if row in world.file.rows_of(table) else None
    base_row = next(each for each in world.file.rows if each.paper == world.file.baseline)
    base = world.record(table, base_row)
    if world.file.layout == "storage":
        return storage_cell(paper, record, world.text(column.value), base)
    seconds = None if base is None else seconds_of(base, base_row.clock)
    return time_cell(paper, record, world.text(column.value), row.clock, None if seconds is None else seconds.p50)


def count_parts(world: SuiteWorld) -> list[Part]:
    """Return a part for each task: rows are groups, columns numbers of training items and queries."""
    columns = [Column(world.marked(column.name, column.notes)) for column in world.file.columns]
    parts = []
    for table in world.file.tasks:
        counts = _counts(world, table)
        lines = []
        for row in world.file.rows:
            group = world.text(row.group)
            cells = []
            for column in world.file.columns:
                ours = counts(group, world.text(column.value)) if counts is not None and group else ("", None)
                paper = world.published(row.paper, column.paper)
                cells.append(Cell(plain_text(paper), ours[0], published=paper, value=ours[1]))
            name = world.marked(row.name, row.notes)
            lines.append(Line(f"{name}; ours: {group}" if group and group != row.paper else name, cells))
        parts.append(Part(_task_title(world, table), columns, lines))
    return parts


def _counts(world: SuiteWorld, table: TaskTable) -> Callable[[str, str], tuple[str, float]] | None:
    """Return a function of group and value that gives text and number; None where the task can't be opened."""
    opened = next((opened_or_none(world, each) for each in world.needed if each.table is table), None)
    if opened is None:
        return None
    train, queries = opened.train.groups, opened.queries.groups

    def count(group: str, value: str) -> tuple[str, float]:
        number = list(queries if value == "test" else train).count(group)
        share = number / max(1, len(train))
        return (f"{100 * share:.2f}%", share) if value == "share" else (f"{number:,}", float(number))

    return count


def opened_or_none(world: SuiteWorld, needed: Needed) -> Any:
    """Return an open task; where it can't be opened, None and a line among the problems."""
    try:
        return world.opened(needed)
    except AttrbenchError as error:
        world.runs.problems.append(f"{needed.request.label}: {error_line(error)}")
        return None


def recipe_parts(world: SuiteWorld) -> list[Part]:
    """Return one part: rows are models, columns settings of their training."""
    columns = [Column(world.marked(column.name, column.notes)) for column in world.file.columns]
    lines = []
    for table in world.file.tasks:
        settings = next((_settings(each) for each in world.needed if each.table is table), {})
        cells = []
        for column in world.file.columns:
            paper = world.published(table.paper, column.paper)
            ours = _setting(settings, world.text(column.value))
            value = float(ours) if isinstance(ours, int | float) and not isinstance(ours, bool) else None
            cells.append(Cell(plain_text(paper), plain_text(ours), published=paper, value=value))
        lines.append(Line(_task_title(world, table), cells))
    return [Part("", columns, lines)]


def _settings(needed: Needed) -> Mapping[str, object]:
    """Return the options of a task and the settings of its training."""
    task = needed.request.task
    recipe = task.training_recipe() if isinstance(task, Trainable) else {}
    return {**task.options.model_dump(mode="json"), **recipe}


def _setting(settings: Mapping[str, object], place: str) -> object:
    """Return the setting at a place, such as `lora.rank`; None where there is none."""
    found: object = settings
    for key in place.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


LAYOUTS: dict[Layout, Callable[[SuiteWorld], Sequence[Part]]] = {
    "metric": metric_parts,
    "grid": grid_parts,
    "storage": cost_parts,
    "time": cost_parts,
    "counts": count_parts,
    "recipe": recipe_parts,
}
"""Layout -> the function that makes its parts."""
