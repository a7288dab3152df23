"""The provenance of each run on a board: its command, versions, machine, coverage, options tried, and notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attrbench.contracts.record import Record
from attrbench.contracts.record_origin import Tried
from attrbench.reports.html.board import Board
from attrbench.reports.quantities import human_bytes, human_seconds
from attrbench.reports.ranking import Table
from attrbench.reports.table_cells import interval_text, shown
from attrbench.text import one_line

Fact = tuple[str, str]
LONGEST_COMMAND = 4000
"""Characters of a command that are shown; what is repeated must be whole, unless somebody means harm."""


@dataclass(frozen=True)
class Provenance:
    """The origin of one run, for a template.

    Attributes:
        anchor: id that the board links to.
        method: its label.
        summary: the method in one line.
        command: the line that repeats the run.
        facts: (name, value) of everything else.
        tried: (option values, metric reached) where the options were tuned; `chosen_by` says by what.
    """

    anchor: str
    method: str
    summary: str
    command: str
    facts: Sequence[Fact]
    tried: Sequence[Fact]
    chosen_by: str


def make_provenance(table: Table, board: Board) -> list[Provenance]:
    """Return the provenance of each row of a board, in its order."""
    rows = zip([*table.ranked, *table.below], [*board.rows, *board.below], strict=True)
    return [_provenance(row.record, cells.anchor) for row, cells in rows]


def _provenance(record: Record, anchor: str) -> Provenance:
    tuned = record.tuned
    return Provenance(
        anchor=anchor,
        method=shown(record.method.label),
        summary=shown(record.method.summary),
        command=one_line(record.command)[:LONGEST_COMMAND],
        facts=[(name, value) for name, value in _facts(record) if value],
        tried=[] if tuned is None else [(shown(each.label), _reached(each)) for each in tuned.tried],
        chosen_by="" if tuned is None else f"{shown(tuned.by)} on {tuned.queries} tuning queries",
    )


def _reached(tried: Tried) -> str:
    return shown(tried.why) if tried.value is None else f"{tried.value:.3f} {interval_text(tried)}".strip()


def _facts(record: Record) -> Iterator[Fact]:
    """Yield what a record tells of its run as (name, text), empty texts included."""
    made, machine, coverage, latency = record.provenance, record.hardware, record.coverage, record.latency
    yield "status", record.status + (f": {shown(record.error)}" if record.error else "")
    yield "method", f"{shown(record.method.name)} v{record.method.version} of {shown(record.method.distribution)}"
    yield "options", _pairs(record.method.options)
    yield "task", f"{shown(record.task.name)} v{record.task.version}, fingerprint {shown(record.task.fingerprint[:16])}"
    yield "task options", _pairs(record.task.options)
    yield (
        "coverage",
        f"{coverage.train_items} of {coverage.train_total} training items, {coverage.queries} of"
        f" {coverage.queries_total} queries",
    )
    yield "lost gradients", str(len(coverage.nonfinite)) if coverage.nonfinite else ""
    yield "notes", "; ".join(map(shown, record.notes))
    yield "facts", ", ".join(f"{shown(name)} {value:.4g}" for name, value in record.facts.items())
    yield "one-time cost", "" if latency is None else _once(latency.cache, latency.fit)
    yield "peak memory", "" if record.peak_memory_bytes is None else human_bytes(record.peak_memory_bytes)
    yield "peak device memory", "" if record.peak_device_bytes is None else human_bytes(record.peak_device_bytes)
    yield (
        "machine",
        f"{shown(machine.hardware_class)}; {machine.threads} threads, {human_bytes(machine.memory_bytes)} of memory",
    )
    yield "made", f"{shown(record.created)}, seed {record.seed}"
    yield "attrbench", f"{shown(made.attrbench)}, code {shown(made.code[:16])}{_revision(record)}"
    yield "Python and packages", f"{shown(made.python)}; {_pairs(made.packages)}"
    yield "identity", shown(record.identity)


def _once(cache: float, fit: float) -> str:
    return f"{human_seconds(cache)} for training features, {human_seconds(fit)} to fit"


def _pairs(values: object) -> str:
    assert isinstance(values, dict)
    return ", ".join(f"{shown(name)}={shown(value)}" for name, value in values.items())


def _revision(record: Record) -> str:
    made = record.provenance
    if made.git_revision is None:
        return ""
    return f", commit {shown(made.git_revision[:12])}{' with uncommitted changes' if made.git_dirty else ''}"
