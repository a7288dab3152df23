"""Marks of records whose result was reproduced: a JSON list that lies beside the records and is shown with them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from attrbench.contracts.record_costs import Count, RecordPart
from attrbench.errors import AttrbenchError
from attrbench.files import write_atomically
from attrbench.text import one_line

IDENTITY = "^[0-9a-f]{64}$"
"""Form of the identity of a record that can be marked."""


class Mark(RecordPart):
    """The mark of a record: its command was run again, and the main metric fell into the record's interval.

    Attributes:
        identity: of the record.
        task, method: labels of both.
        metric: the main metric; `value` what it was this time.
        equal_rankings: queries, out of `queries`, whose ranking was the same to the last item.
        date: day on which it was run again, in UTC.
        attrbench: version with which it was run again; `revision` the commit, empty outside of a checkout.
        hardware: class of the machine.
    """

    identity: str = Field(pattern=IDENTITY)
    task: str
    method: str
    metric: str
    value: float
    equal_rankings: Count
    queries: Count
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    attrbench: str
    revision: str = Field(pattern="^[0-9a-f]*$")
    hardware: str


_Marks = TypeAdapter(list[Mark])


def read_marks(path: Path) -> list[Mark]:
    """Return the marks in a file; none where there is no file.

    Raises:
        AttrbenchError: for a file that can't be read, or is no list of marks.
    """
    try:
        return _Marks.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise AttrbenchError(f"cannot read {one_line(path)}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        why = one_line(f"{place}{': ' if place else ''}{first['msg']}")[:200]
        raise AttrbenchError(f"{one_line(path)} is no list of marks: {why}") from None


def write_marks(path: Path, marks: Iterable[Mark]) -> None:
    """Write marks to a file, in order of task, method and identity; of those of a record on a machine the last stays.

    Raises:
        AttrbenchError: for a file that can't be written.
    """
    kept = {(mark.identity, mark.hardware): mark for mark in marks}
    ordered = sorted(kept.values(), key=lambda mark: (mark.task, mark.method, mark.identity, mark.hardware))
    try:
        write_atomically(path, _Marks.dump_json(ordered, indent=1) + b"\n")
    except OSError as error:
        raise AttrbenchError(f"cannot write {one_line(path)}: {error.strerror}") from None
