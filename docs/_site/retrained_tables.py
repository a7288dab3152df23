"""Tables of the linear datamodeling score: of the methods on all boards that have it, and of one board in full.

Parts of pages, as those of `method_tables`, which `tests/test_record_pages.py` compares and writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrbench.ground_truth.linear_datamodeling import METRIC
from attrbench.plugins.registry import Registry
from attrbench.reports.leaderboard_table import markdown_text
from attrbench.reports.ranking import Table
from attrbench.reports.table_cells import interval_text, share_text
from docs._site.default_runs import board_link, default_runs, value_text

LEAST_BOARDS = 3
"""Boards on which a run must have the score to stand in the table of all of them."""
BESIDE = ("lds-over-others", "lds-pixels", "group-top1", "detection-rate@10")
"""What stands beside the score in the table of one board."""


def scored_boards(tables: Sequence[Table]) -> list[Table]:
    """Return the boards that are ranked by the linear datamodeling score."""
    return [table for table in tables if table.metric == METRIC]


def score_rows(tables: Sequence[Table], registry: Registry, boards_at: str) -> str:
    """Return the score and rank of each method on each board, at its defaults and with the other policy of noise.

    Only of runs on at least `LEAST_BOARDS` boards; the highest mean share of the ceilings first.

    Args:
        tables: the boards.
        registry: the plugins.
        boards_at: folder of the boards' pages, from the page that shows this.
    """
    boards = [(table, table.ceiling or 1.0, default_runs(table, registry, free=("noise",))) for table in tables]
    found = []
    for label in {label for _, _, runs in boards for label in runs}:
        cells, shares = [], []
        for _, ceiling, runs in boards:
            row = runs.get(label)
            result = None if row is None else row.record.metric(METRIC)
            if row is None or result is None:
                cells.append("")
                continue
            cells.append(f"{value_text(row, METRIC)} ({row.place})")
            shares.append(result.value / ceiling)
        if len(shares) >= LEAST_BOARDS:
            found.append((-sum(shares) / len(shares), f"| {markdown_text(label)} | {' | '.join(cells)} |"))
    lines = [
        f"| {METRIC} (rank) | {' | '.join(board_link(table, boards_at) for table in tables)} |",
        f"|---|{'--:|' * len(tables)}",
        *(line for _, line in sorted(found)),
        f"| *ceiling* | {' | '.join(f'{ceiling:.3f}' for _, ceiling, _ in boards)} |",
    ]
    return "\n".join([*lines, ""])


def board_rows(table: Table, registry: Registry) -> str:
    """Return score, interval and share of the ceiling of each method on one board at its defaults, the best first.

    Beside them stand other measures, and what the method reaches with the other policy of noise.
    """
    runs = default_runs(table, registry, free=("noise",))
    compared = (METRIC, BESIDE[-1])
    titles = ["method", METRIC, "95% interval", "of ceiling", *BESIDE, "noise"]
    titles += [f"{measure}, other noise" for measure in compared]
    lines = [f"| {' | '.join(titles)} |", f"|---|{'--:|' * (len(titles) - 1)}"]
    for name, row in runs.items():
        result = row.record.metric(METRIC)
        if name != row.record.method.name or result is None or result.ceiling is None:
            continue
        other = next((run for label, run in runs.items() if label.startswith(f"{name}:noise=")), None)
        cells = [markdown_text(name), value_text(row, METRIC), interval_text(result)]
        cells += [share_text(result)]
        cells += [value_text(row, measure) for measure in BESIDE]
        cells += [str(row.record.method.options.get("noise", "")) if other else ""]
        cells += [value_text(other, measure) for measure in compared]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
