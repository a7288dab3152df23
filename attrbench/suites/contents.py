"""The schema of a suite file, which describes one table or figure of a paper (docs/how-to/reproduce-the-paper.md)."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

ByScale: TypeAlias = str | dict[str, str]
"""A text for all scales, or one for each scale that has it."""
Layout = Literal["metric", "grid", "storage", "time", "counts", "recipe", "effect", "gallery"]
NEEDS: dict[Layout, tuple[str, ...]] = {
    "metric": ("metric", "k", "rows", "columns"),
    "grid": ("metric", "k", "columns", "grid"),
    "storage": ("rows", "columns", "baseline"),
    "time": ("rows", "columns", "baseline"),
    "counts": ("rows", "columns"),
    "recipe": ("columns",),
    "effect": ("rows", "columns"),
    "gallery": ("rows", "k"),
}
"""Layout -> the keys that a suite of that layout has to give, besides those that every suite has."""
VALUES: dict[Layout, tuple[str, ...]] = {
    "storage": ("item", "total", "share"),
    "time": ("seconds", "speedup"),
    "counts": ("train", "share", "test"),
}
"""Layout -> what a column may show, where that is not an option, a metric or a group."""


def at_scale(text: ByScale, scale: str) -> str:
    """Return a text at a scale; empty where it has none there."""
    return text if isinstance(text, str) else text.get(scale, "")


class SuitePart(BaseModel):
    """The base of the tables of a suite file: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ScaleTable(SuitePart):
    """The table `[scales.NAME]`: what a reader must know of this scale, and what it takes to run it."""

    about: str
    """What these numbers can be compared with; stands above the table."""
    needs: list[str] = Field(default_factory=list)
    """What a run takes (hardware, hours, licenses, trainings before it); `--dry-run` shows it."""


class TaskTable(SuitePart):
    """A table `[[tasks]]`: a model of the paper and the task that stands for it at each scale."""

    name: str
    """As the paper calls it."""
    paper: str
    """Its key in the paper's numbers."""
    task: ByScale
    """The `-t` string."""
    values: dict[str, str] = Field(default_factory=dict)
    """What stands for `{KEY}` in the `method` of a row on this task."""
    notes: list[str] = Field(default_factory=list)


class RowTable(SuitePart):
    """A table `[[rows]]`: a method, or for `counts` a group of training items."""

    name: ByScale
    """As the paper calls it."""
    paper: str = ""
    """Its key in the paper's numbers; empty where the paper has none."""
    method: ByScale = ""
    """The `-m` string; at a scale without one the row has the paper's numbers alone."""
    group: ByScale = ""
    """For `counts`: the group of items."""
    tasks: list[str] = Field(default_factory=list)
    """The tasks (their key `paper`) that have this row; all where it is left out."""
    clock: Literal["score", "query"] = "score"
    """For `time`: the time of ranking alone, or with the query's gradient (and, where none are kept, everybody's)."""
    notes: list[str] = Field(default_factory=list)


class ColumnTable(SuitePart):
    """A table `[[columns]]`: what a column shows."""

    name: ByScale
    """As the paper calls it."""
    paper: str = ""
    """Its key in the paper's numbers."""
    value: ByScale = ""
    """`storage`: `item`, `total` or `share`; `time`: `seconds` or `speedup`; `counts`: `train`, `share` or `test`;
    `recipe`: an option of the task or a setting of its training, such as `lora.rank`; `effect`: a metric."""
    group: ByScale = ""
    """For `metric` and `grid`: the group of the queries that count; all queries where it is left out."""
    tasks: list[str] = Field(default_factory=list)
    """For `storage` and `time`: the tasks (their key `paper`) that have this column; all where it is left out."""
    notes: list[str] = Field(default_factory=list)


class GridTable(SuitePart):
    """The table `[grid]`: a method whose options are swept, with `{part}`, `{row}` and `{column}` in its string."""

    method: ByScale
    part_name: str
    row_name: str
    column_name: str
    parts: list[int]
    """One part of the table for each of these values and each group; `rows` and `columns` are those of a part."""
    rows: list[int]
    columns: list[int]


class SuiteFile(SuitePart):
    """The contents of a suite file.

    The paper's number of a cell is looked up by row and column: `TASK/ROW` and `GROUP@K` for `metric`, `PART/GROUP/ROW`
    and `COLUMN` for `grid`, `ROW` and `TASK/COLUMN` for `storage` and `time`, `ROW` and `COLUMN` for `counts` and
    `effect`, `TASK` and `COLUMN` for `recipe`, each of them the key `paper` of what it names.
    """

    title: str
    paper: str
    """The JSON file with the paper's numbers, beside the suite."""
    table: str
    """The key of the table in it."""
    layout: Layout
    scales: dict[str, ScaleTable] = Field(min_length=1)
    tasks: list[TaskTable] = Field(min_length=1)
    rows: list[RowTable] = Field(default_factory=list)
    columns: list[ColumnTable] = Field(default_factory=list)
    metric: str = ""
    """Name of a metric, without its cut-off."""
    k: list[int] = Field(default_factory=list)
    """Cut-offs of the metric; for `gallery` the number of training images, for `grid` one cut-off."""
    grid: GridTable | None = None
    baseline: str = ""
    """For `storage` and `time`: the row that shares and speed-ups are relative to."""
    queries: int = Field(5, ge=1)
    """For `gallery`: how many queries of each task, evenly from all groups."""
    least: int = Field(0, ge=0)
    """For `gallery`: how many of the least influential training images follow."""
    footnotes: dict[str, ByScale] = Field(default_factory=dict)
    """What a reader must know; `notes` of a task, row or column name those that are about it."""

    @model_validator(mode="after")
    def _complete(self) -> SuiteFile:
        for key in NEEDS[self.layout]:
            if not getattr(self, key):
                raise ValueError(f"a suite with layout '{self.layout}' has to give {key}")
        if self.layout in ("grid", "gallery") and len(self.k) > 1:
            raise ValueError(f"a suite with layout '{self.layout}' has one k, not {len(self.k)}")
        if self.layout == "grid" and len(self.tasks) > 1:
            raise ValueError(f"a suite with layout 'grid' has one task, not {len(self.tasks)}")
        return self

    @model_validator(mode="after")
    def _known_names(self) -> SuiteFile:
        parts: list[Any] = [*self.tasks, *self.rows, *self.columns]
        for name in (note for part in parts for note in part.notes):
            _known("footnote", name, self.footnotes)
        named = [row.tasks for row in self.rows] + [column.tasks for column in self.columns]
        for name in (name for names in named for name in names):
            _known("task", name, [task.paper for task in self.tasks])
        if self.baseline:
            _known("row", self.baseline, [row.paper for row in self.rows])
        for column in self.columns if self.layout in VALUES else ():
            _known("value", str(column.value), VALUES[self.layout])
        return self

    def rows_of(self, task: TaskTable) -> list[RowTable]:
        """Return the rows that a task has."""
        return [row for row in self.rows if not row.tasks or task.paper in row.tasks]

    def columns_of(self, task: TaskTable) -> list[ColumnTable]:
        """Return the columns that a task has."""
        return [column for column in self.columns if not column.tasks or task.paper in column.tasks]


def _known(kind: str, name: str, known: Any) -> None:
    if name not in known:
        raise ValueError(f"there is no {kind} '{name}' in it; there are {', '.join(known) or 'none'}")
