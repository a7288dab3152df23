"""Tables of the linear datamodeling score: of the methods on all boards that have it, and of one board in full.

Parts of pages, as those of `method_tables`, which `tests/test_record_pages.py` compares and writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrbench.ground_truth.linear_datamodeling import METRIC
from attrbench.plugins.registry import Registry
from attrbench.reports.compare import compare_records
from attrbench.reports.leaderboard_table import markdown_text
from attrbench.reports.ranking import Row, Table
from attrbench.reports.table_cells import interval_text, share_text
from docs._site.default_runs import board_link, default_runs, value_text

LEAST_BOARDS = 3
"""Boards on which a run must have the score to stand in the table of all of them."""
BESIDE = ("lds-over-others", "lds-balanced", "lds-top@50", "lds-pixels", "group-top1", "detection-rate@10")
"""What stands beside the score in the table of one board."""


def scored_boards(tables: Sequence[Table]) -> list[Table]:
    """Return the boards that are ranked by the linear datamodeling score."""
    return [table for table in tables if table.metric == METRIC]


def score_rows(tables: Sequence[Table], registry: Registry, boards_at: str) -> str:
    """Return the score of each method on each board, at its defaults and with the other policy of noise.

    The better of the two is bold where they are told apart. Only of methods on at least `LEAST_BOARDS` boards; those
    come first whose better policy of noise, the same on all boards, has the highest mean share of the ceilings.

    Args:
        tables: the boards.
        registry: the plugins.
        boards_at: folder of the boards' pages, from the page that shows this.
    """
    boards = [default_runs(table, registry, free=("noise",)) for table in tables]
    ceilings = [table.ceiling or 1.0 for table in tables]
    found = []
    for name in {run.record.method.name for runs in boards for run in runs.values()}:
        pairs = [(runs.get(name), other_noise(runs, name)) for runs in boards]
        shares = [_shares(policy, ceilings) for policy in zip(*pairs, strict=True)]
        means = [sum(values) / len(values) for values in shares if len(values) >= LEAST_BOARDS]
        if len(shares[0]) >= LEAST_BOARDS:
            noise = next((row.record.method.options["noise"] for row, other in pairs if row and other), "")
            cells = [markdown_text(name), str(noise), *(_pair_text(*pair) for pair in pairs)]
            found.append((-max(means), f"| {' | '.join(cells)} |"))
    lines = [
        f"| {METRIC} | paper's noise | {' | '.join(board_link(table, boards_at) for table in tables)} |",
        f"|---|---|{'--:|' * len(tables)}",
        *(line for _, line in sorted(found)),
        f"| *ceiling* | | {' | '.join(f'{ceiling:.3f}' for ceiling in ceilings)} |",
    ]
    return "\n".join([*lines, ""])


def _shares(rows: Sequence[Row | None], ceilings: Sequence[float]) -> list[float]:
    """Return the shares of the boards' ceilings that runs reach, one run a board; boards without one are left out."""
    results = [None if row is None else row.record.metric(METRIC) for row in rows]
    return [result.value / ceiling for result, ceiling in zip(results, ceilings, strict=True) if result is not None]


def _pair_text(row: Row | None, other: Row | None) -> str:
    """Return the scores of a method at its defaults and with the other noise; the better in bold if told apart.

    Empty where there is no run at the defaults.
    """
    if row is None or other is None:
        return value_text(row, METRIC)
    texts = [value_text(row, METRIC), value_text(other, METRIC)]
    (difference,) = compare_records(row.record, other.record, [METRIC], 0).differences
    if difference.better:
        better = "AB".index(difference.better)
        texts[better] = f"**{texts[better]}**"
    return " / ".join(texts)


def other_noise(runs: Mapping[str, Row], name: str) -> Row | None:
    """Return a method's run that differs from its defaults by the policy of noise alone; None if there is none."""
    return next((row for label, row in runs.items() if label.startswith(f"{name}:noise=")), None)


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
        other = other_noise(runs, name)
        cells = [markdown_text(name), value_text(row, METRIC), interval_text(result)]
        cells += [share_text(result)]
        cells += [value_text(row, measure) for measure in BESIDE]
        cells += [str(row.record.method.options.get("noise", "")) if other else ""]
        cells += [value_text(other, measure) for measure in compared]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
