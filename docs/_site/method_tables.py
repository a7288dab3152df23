"""Parts of pages that are made of the published records: which methods come first, their values and their costs.

`tests/test_record_pages.py` compares them with what is committed, and writes them with ATTRBENCH_WRITE_DOCS=1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attrbench.contracts.record import Record
from attrbench.plugins.registry import Registry
from attrbench.reports.columns import DEFAULT, filled_columns, request_columns
from attrbench.reports.leaderboard_table import markdown_rows, markdown_text
from attrbench.reports.quantities import human_bytes, human_seconds
from attrbench.reports.ranking import Row, Table, build_tables
from attrbench.reports.table_cells import interval_text, method_text, metric_text
from docs._site.criteria_tables import agreement_rows, boards_with_an_answer, criteria_rows
from docs._site.default_runs import board_link, default_runs, value_text
from docs._site.retrained_tables import board_rows, other_noise, score_rows, scored_boards

FAMILIES = ("similarity", "first_order", "kernel", "second_order")
"""Packages of methods, but for the controls."""
COSTS_OF = "ddpm-mnist-mini"
"""The board that costs are taken from: it has most methods."""
EXAMPLE = ("digits-mini", ("pixel", "dmin", "random"))
"""Board and methods of the example by which numbers are explained."""
DIGITS = "digits-mini"
"""The board that the page of what retraining says shows in full."""
EXEMPLARS = ("customized-mini", ("recall@10", "average-precision"))
"""The board whose models' exemplars are known, and what asks for them."""
SHOWN = tuple(name for name in DEFAULT if name != "ann-recall")


def parts(records: Sequence[Record], registry: Registry) -> dict[str, str]:
    """Return name -> text of the marked parts of pages that are made of records."""
    tables = _largest([table for table in build_tables(records) if table.ranked])
    answered = boards_with_an_answer(tables)
    return {
        "best": best_rows(tables, registry),
        "counted": counted(tables, registry),
        "defaults": default_rows(tables, registry),
        "criteria": criteria_rows(answered, registry),
        "agreement": agreement_rows(answered),
        "costs": cost_rows(tables, registry),
        "example": example(tables),
        "scores": score_rows(scored_boards(tables), registry, boards_at="docs/boards"),
        "noise": score_rows(scored_boards(tables), registry, boards_at="../boards"),
        "digits": board_rows(_board(tables, DIGITS), registry),
        "exemplars": exemplar_rows(_board(tables, EXEMPLARS[0]), registry),
    }


def _largest(tables: Sequence[Table]) -> list[Table]:
    """Return of each task the table with most ranked runs, where there are several versions."""
    by_size = sorted(tables, key=lambda table: len(table.ranked))
    return [largest for _, largest in sorted({table.task: table for table in by_size}.items())]


def _board(tables: Sequence[Table], task: str) -> Table:
    (table,) = (table for table in tables if table.task == task)
    return table


def family(name: str, registry: Registry) -> str:
    """Return the package of a method of ours, such as `kernel`; `other` for a method of another package."""
    if name not in registry.names("method"):
        return "other"
    package, *inside = registry.method(name).__module__.split(".")
    return inside[0] if package == "attrbench_methods" else "other"


def first_of(table: Table, registry: Registry, gradients: bool) -> Row | None:
    """Return the best ranked run that looks at gradients, or at pictures alone; None where there is none."""
    wanted = FAMILIES[1:] if gradients else FAMILIES[:1]
    return next((row for row in table.ranked if family(row.record.method.name, registry) in wanted), None)


def best_rows(tables: Sequence[Table], registry: Registry) -> str:
    """Return the best run of each kind for each board, as a table in Markdown."""
    lines = [
        "| board | measured by | random | best by pictures alone | best by gradients |",
        "|---|---|--:|---|---|",
    ]
    for table in tables:
        runs = [first_of(table, registry, gradients) for gradients in (False, True)]
        texts = [_told(table, row) for row in runs]
        chance = "" if table.random is None else f"{table.random:.3f}"
        lines.append(f"| {board_link(table)} | {table.metric} | {chance} | {' | '.join(texts)} |")
    return "\n".join([*lines, ""])


def counted(tables: Sequence[Table], registry: Registry) -> str:
    """Return a list of the boards on which gradients, pictures alone, or neither come first."""
    found: dict[str, list[str]] = {"gradients": [], "pictures": [], "neither": []}
    for table in tables:
        pictures, gradients = (first_of(table, registry, each) for each in (False, True))
        if pictures is None or gradients is None or pictures.rank is None or gradients.rank is None:
            continue
        ahead = gradients.rank - pictures.rank
        found["gradients" if ahead < 0 else "pictures" if ahead > 0 else "neither"].append(board_link(table))
    names = {
        "gradients": "The best gradient method is ahead of the best comparison of pictures",
        "pictures": "The best comparison of pictures is ahead of the best gradient method",
        "neither": "The two share a rank",
    }
    return "".join(f"- {names[kind]}: {', '.join(where) or 'nowhere'}.\n" for kind, where in found.items())


def default_rows(tables: Sequence[Table], registry: Registry) -> str:
    """Return the value of each method at its defaults on each board, as a table in Markdown."""
    boards = [(table, default_runs(table, registry)) for table in tables]
    names = [name for part in FAMILIES for name in registry.names("method") if family(name, registry) == part]
    known = [name for name in names if any(name in rows for _, rows in boards)]
    lines = [
        f"| method | {' | '.join(board_link(table) for table, _ in boards)} |",
        f"|---|{'--:|' * len(boards)}",
        f"| *measured by* | {' | '.join(markdown_text(table.metric) for table, _ in boards)} |",
    ]
    for name in known:
        values = [value_text(rows.get(name), table.metric) for table, rows in boards]
        lines.append(f"| [{name}](../methods/{name}.md) | {' | '.join(values)} |")
    chance = ["" if table.random is None else f"{table.random:.3f}" for table, _ in boards]
    return "\n".join([*lines, f"| *random ranking* | {' | '.join(chance)} |", ""])


def cost_rows(tables: Sequence[Table], registry: Registry) -> str:
    """Return what each method at its defaults keeps and takes on one board, as a table in Markdown."""
    table = _board(tables, COSTS_OF)
    lines = [
        "| method | kept for each training image | kept besides | time, once | time of a query |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, row in sorted(default_runs(table, registry).items(), key=lambda entry: entry[1].record.latency.query.p50):
        storage, latency = row.record.storage, row.record.latency
        if family(name, registry) not in FAMILIES or storage is None or latency is None:
            continue
        if row.record.hardware.times_class != table.machines[0]:
            continue  # times of other machines are no match
        rows, others = storage.rows / table.train_items, storage.shared + storage.index
        kept = [human_bytes(count) if count else "nothing" for count in (rows, others)]
        texts = (*kept, human_seconds(latency.cache + latency.fit), human_seconds(latency.query.p50))
        lines.append(f"| [{name}](../methods/{name}.md) | {' | '.join(texts)} |")
    return "\n".join([*lines, ""])


def exemplar_rows(table: Table, registry: Registry) -> str:
    """Return how well each method finds the exemplars at its defaults, with the other noise and without the prompt."""
    measures = EXEMPLARS[1]
    titles = ["method", *measures, "noise", f"{measures[0]}, other noise", f"{measures[0]}, empty prompt"]
    lines = [f"| {' | '.join(titles)} |", f"|---|{'--:|' * (len(titles) - 1)}"]
    runs = default_runs(table, registry, free=("noise", "prompt"))
    for name, row in runs.items():
        method = row.record.method
        if name != method.name:
            continue
        other = other_noise(runs, name)
        cells = [markdown_text(name), *(metric_text(row.record.metric(measure)) for measure in measures)]
        cells += [str(method.options.get("noise", "")) if other else "", value_text(other, measures[0])]
        lines.append(f"| {' | '.join([*cells, value_text(runs.get(f'{name}:prompt=empty'), measures[0])])} |")
    return "\n".join([*lines, ""])


def example(tables: Sequence[Table]) -> str:
    """Return a few rows of a board as a table in Markdown."""
    name, methods = EXAMPLE
    part = _board(tables, name).of_methods(methods)
    part = replace(part, ranked=[row for row in part.ranked if row.record.tuned is None])
    return "\n".join([*markdown_rows(part, filled_columns(part, request_columns(SHOWN, [part]))), ""])


def _told(table: Table, row: Row | None) -> str:
    """Return a run with its value, interval and rank as text; `none` where there is no such run."""
    result = None if row is None else row.record.metric(table.metric)
    if row is None or result is None:
        return "none"
    return f"{markdown_text(method_text(row.record))} {result.value:.3f} {interval_text(result)}, rank {row.place}"
