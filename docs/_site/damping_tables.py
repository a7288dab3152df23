"""Tables of damping on the methods' pages: what `attrbench tune` reached with each value, from the published records.

`tests/test_record_pages.py` compares them with what is committed, and writes them with ATTRBENCH_WRITE_DOCS=1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from attrbench.contracts.options import Spec, parse_spec
from attrbench.contracts.record import MetricResult, Record
from attrbench.contracts.record_origin import Tried
from attrbench.reports.table_cells import interval_text

TASKS = ("digits-mini", "sd14-lora-mini", "sd3-lora-mini", "ddpm-mnist-mini")
"""Tasks on which every damping was tried."""
OPTION = "damping"


def damping_tables(records: Sequence[Record], method: str) -> str:
    """Return the values of all dampings of a method in Markdown: a row for each damping, a column for each sweep.

    Each task has a table of its own; where a method has one sweep alone, a column of a common one. The values are those
    of the tuning queries, by the metric that chose, the chosen one in bold; the last rows are those of the reported
    queries.

    Args:
        records: the published ones.
        method: name of a method whose damping was tuned.
    """
    by_task = {
        task: _columns([each for each in records if (each.method.name, each.task.name) == (method, task)])
        for task in TASKS
    }
    if all(len(columns) == 1 for columns in by_task.values()):
        named = [replace(column, head=f"`{task}`, `{column.by}`") for task, (column,) in by_task.items()]
        return f"{_table(named)}\n"
    return "\n".join(f"`{task}`, `{columns[0].by}`:\n\n{_table(columns)}\n" for task, columns in by_task.items())


@dataclass(frozen=True)
class Column:
    """A sweep of a method's damping: its name, the record of the chosen value, and that of the default if any."""

    head: str
    chosen: Record
    default: Record | None

    @property
    def by(self) -> str:
        """Return the metric by which the damping was chosen."""
        return self.chosen.task.main_metric if self.chosen.tuned is None else self.chosen.tuned.by


def _columns(records: Sequence[Record]) -> list[Column]:
    """Return the sweeps of one method on one task: that without other options first, other noise last."""
    tuned = {_head(record): record for record in records if record.tuned is not None}
    heads = sorted(tuned, key=lambda head: (bool(_others(tuned[head])), head.startswith("`noise"), head))
    return [Column(head, tuned[head], _default(records, tuned[head])) for head in heads]


def _default(records: Sequence[Record], chosen: Record) -> Record | None:
    """Return the record of the default damping with the other options of a chosen one; None if there is none."""
    alike = (each for each in records if each.tuned is None and each.method.options_given == _others(chosen))
    return next(alike, None)


def _table(columns: Sequence[Column]) -> str:
    values = [_tried(column.chosen) for column in columns]
    (number,) = {f"{column.default.method.options[OPTION]:g}" for column in columns if column.default is not None}
    rows = [
        [OPTION, *(column.head for column in columns)],
        *([f"{damping:g}", *(column[damping] for column in values)] for damping in sorted(values[0])),
        ["reported queries, chosen", *(_reported(column.chosen, column.by) for column in columns)],
        [f"reported queries, default ({number})", *(_reported(column.default, column.by) for column in columns)],
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([lines[0], f"|--:|{'---|' * len(columns)}", *lines[1:]])


def _spec(label: str) -> Spec:
    (spec,) = parse_spec(label)
    return spec


def _head(record: Record) -> str:
    """Return the options of a sweep besides the damping; the method's name where there are none."""
    others = [f"{key}={value}" for key, value in _others(record).items()]
    return f"`{','.join(others) or record.method.name}`"


def _others(record: Record) -> dict[str, Any]:
    """Return the options that were given besides the damping."""
    return {key: value for key, value in record.method.options_given.items() if key != OPTION}


def _tried(record: Record) -> dict[float, str]:
    """Return damping -> what it reached on the tuning queries; that of the record is in bold."""
    every = [] if record.tuned is None else record.tuned.tried
    texts = {float(_spec(tried.label).given[OPTION]): _value(tried) for tried in every}
    chosen = float(str(record.method.options[OPTION]))
    return {value: f"**{text}**" if value == chosen else text for value, text in texts.items()}


def _reported(record: Record | None, metric: str) -> str:
    return "" if record is None else _value(record.metric(metric))


def _value(result: MetricResult | Tried | None) -> str:
    """Return a value with its interval as text; empty if there is none."""
    return "" if result is None or result.value is None else f"{result.value:.3f} {interval_text(result)}"
