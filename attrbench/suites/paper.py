"""The numbers that a paper prints, read from JSON: each with its table, row and column as source."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attrbench.errors import UsageError, unknown_name
from attrbench.text import one_line

Value = float | int | str
"""A cell of a paper's table: a number, or a text such as `160 KB`."""


class PaperPart(BaseModel):
    """The base of the parts of a paper's numbers: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PaperRow(PaperPart):
    """A row of a paper's table: its text in the paper, and column -> value."""

    row: str
    cells: dict[str, Value]


class PaperTable(PaperPart):
    """A table or figure of a paper.

    Attributes:
        title: what it shows.
        place: where it stands in the paper.
        version: of the paper.
        note: what is uncertain about the numbers.
        columns: column -> its text in the paper.
        rows: row -> its text and values.
    """

    title: str
    place: str
    version: str
    note: str = ""
    columns: dict[str, str] = Field(default_factory=dict)
    rows: dict[str, PaperRow] = Field(default_factory=dict)

    def value(self, row: str, column: str) -> Value | None:
        """Return the value in a cell; None where the paper has none."""
        return self.rows[row].cells.get(column) if row in self.rows else None


class Paper(PaperPart):
    """The numbers of a paper: title, citation, and name -> table."""

    title: str
    cite: str
    note: str = ""
    tables: dict[str, PaperTable]


def read_paper(path: Path) -> Paper:
    """Return the numbers of a paper in a JSON file.

    Raises:
        UsageError: one line, for a file that can't be read or has faults.
    """
    try:
        return Paper.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the paper's numbers {one_line(path)}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{one_line(path)} holds no paper's numbers: {place}{': ' * bool(place)}{first['msg']}"
        ) from None


def table_of(paper: Paper, name: str) -> PaperTable:
    """Return a table of a paper; an unknown name is a UsageError."""
    if name not in paper.tables:
        raise unknown_name("table of the paper", name, paper.tables)
    return paper.tables[name]
