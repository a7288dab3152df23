"""The layout of removal experiments: what models that were trained without some items draw, as a table and a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrbench.contracts.record import MetricResult, Record
from attrbench.reports.html.plot import BOTTOM, LEFT, RIGHT, TOP, Guide, Mark, Plot, place_labels, value_ticks
from attrbench.reports.html.scale import linear
from attrbench.reports.table_cells import interval_text, shown
from attrbench.suites.cells import plain_text
from attrbench.suites.contents import TaskTable
from attrbench.suites.table import Cell, Column, Line, Part
from attrbench.suites.world import SuiteWorld

CONTROL = "control: "


def effect_parts(world: SuiteWorld) -> list[Part]:
    """Return a part for each task: rows are methods and controls, columns metrics and facts of the records."""
    columns = [Column(world.marked(column.name, column.notes)) for column in world.file.columns]
    parts = []
    for table in world.file.tasks:
        lines = []
        for row in world.file.rows_of(table):
            record = world.record(table, row)
            cells = [
                _cell(world, row.paper, column.paper, record, world.text(column.value)) for column in world.file.columns
            ]
            lines.append(Line(world.marked(row.name, row.notes), cells))
        for name, result in _controls(world, table):
            cells = [_result_cell(result, world.text(column.value)) for column in world.file.columns]
            lines.append(Line(name, cells))
        parts.append(Part(f"{table.name}; ours: {world.label(table)}", columns, lines))
    return parts


def _cell(world: SuiteWorld, row: str, column: str, record: Record | None, value: str) -> Cell:
    paper = world.published(row, column)
    text = plain_text(paper)
    result = None if record is None else record.metric(value)
    if result is not None:
        own = _result_cell(result, value)
        return Cell(text, own.ours, own.interval, paper, own.value, own.low, own.high)
    fact = None if record is None else record.facts.get(value)
    if fact is None:
        return Cell(text, published=paper)
    return Cell(text, f"{fact:,.0f}" if fact.is_integer() else f"{fact:.3f}", published=paper, value=fact)


def _result_cell(result: MetricResult, value: str) -> Cell:
    """Return the cell of a metric in the column that shows it; an empty one in others."""
    if result.name != value or not result.finite:
        return Cell()
    return Cell("", f"{result.value:.3f}", interval_text(result), None, result.value, result.low, result.high)


def _controls(world: SuiteWorld, table: TaskTable) -> Iterator[tuple[str, MetricResult]]:
    """Yield the controls of a task's records: those that all share once, others with the method that they match."""
    seen = set()
    for row in world.file.rows_of(table):
        record = world.record(table, row)
        for control in [] if record is None else record.controls:
            name = f"{CONTROL}{shown(control.name)}"
            name = name if control.shared else f"{name}, as {world.text(row.name)}"
            if name not in seen:
                seen.add(name)
                yield name, control.result


def effect_plots(parts: Sequence[Part]) -> list[Plot]:
    """Return a plot for each column that has intervals: the value of each row with its interval, and no change."""
    return [
        _plot(part, place)
        for part in parts
        for place in range(len(part.columns))
        if any(line.cells[place].low is not None for line in part.lines)
    ]


def _plot(part: Part, place: int) -> Plot:
    found = [(line.name, line.cells[place]) for line in part.lines if line.cells[place].value is not None]
    values = [bound for _, cell in found for bound in (cell.low, cell.value, cell.high) if bound is not None]
    y = linear([0.0, *values], BOTTOM, TOP)
    step = (RIGHT - LEFT) / (len(found) + 1)
    marks = [
        Mark(
            x=round(LEFT + step * (number + 0.5), 1),
            y=y.at(cell.value or 0.0),
            kind="other" if name.startswith(CONTROL) else "pareto",
            title=f"{name}: {cell.ours} {cell.interval}",
            y_low=None if cell.low is None else y.at(cell.low),
            y_high=None if cell.high is None else y.at(cell.high),
        )
        for number, (name, cell) in enumerate(found)
    ]
    title = part.columns[place].title.partition(" [")[0]
    names = [name.removeprefix(CONTROL) for name, _ in found]
    guides = [Guide(y.at(0.0), "no change", "random")]
    return Plot(
        title=f"{title}: {part.title}",
        description="What removing the items that each method retrieves does, with 95% intervals, beside the controls.",
        x_title="what chose the removed items (hollow: controls)",
        y_title=title,
        x_ticks=(),
        y_ticks=value_ticks(y),
        marks=marks,
        guides=guides,
        labels=place_labels(list(zip(marks, names, strict=True)), marks, guides),
    )
