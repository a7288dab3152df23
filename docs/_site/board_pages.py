"""The pages of the boards, which are made of the published records: one for each task, and the list of them.

`tests/test_record_pages.py` compares them with what is committed, and writes them with ATTRBENCH_WRITE_DOCS=1. They are
committed, and not made while the site is built, so that they are read on GitHub too and the site needs no attrbench.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from attrbench.contracts.marks import Mark
from attrbench.contracts.record import MetricResult, Record
from attrbench.plugins.registry import Registry
from attrbench.reports.columns import DEFAULT, Column, filled_columns, request_columns, without_interval
from attrbench.reports.criteria import criteria_markdown, criteria_of
from attrbench.reports.leaderboard_table import markdown_rows, markdown_text
from attrbench.reports.ranking import Row, Table, build_tables
from attrbench.reports.table_cells import caption, method_text, shown

METHODS = Path(__file__).parent.parent / "methods"
COLUMNS = tuple(name for name in DEFAULT if name != "query-p95")
"""Those of other boards, but for one, as pages are narrow."""
MEASURES = (
    "lds",
    "lds-over-others",
    "lds-balanced",
    "lds-top@10",
    "lds-top@50",
    "lds-low-noise",
    "lds-middle-noise",
    "lds-high-noise",
    "lds-pixels",
    "lds-features",
    "group-top1",
    "group-ndcg3",
    "group-spearman",
    "group-precision@10",
    "group-top1-pixels",
    "group-top1-features",
)
"""The metrics of the ground truths `lds` and `leave-group-out`, in the order of a page's table."""
MEANING = (
    "[What they mean](../explanation/ground-truth.md). Values alone: `attrbench show` has the interval and ceiling of"
    " each, and `attrbench compare` tells two methods apart by one of them."
)

WITHOUT_TOP = (
    "Models were trained again without the {k} items that a method ranks first for a query, and without {k} random"
    " items of the query's group: how much more its loss rises without the former, as a share of the loss of a model of"
    " all items, and how much further its picture moves; the rise over {k} random items of all. {queries} queries,"
    " {seeds} training seed{s}, 95% intervals over queries. *Found in 80%*: the true difference in the first column"
    " that such an experiment finds eight times in ten."
    " [What they mean](../explanation/ground-truth.md#leaving-the-top-k-out)."
)
DETECTABLE = Column(
    "detectable", "found in 80%", lambda _, row: f"{row.record.facts['leave_k_out_detectable']:.3f}", ()
)


def board_pages(records: Sequence[Record], marks: Sequence[Mark], registry: Registry) -> dict[str, str]:
    """Return name of a file in docs/boards -> its text: one page for each task, and the list of them."""
    tasks = {name: [record for record in records if record.task.name == name] for name in names_of(records)}
    pages = {f"{name}.md": _board(name, own, marks, registry) for name, own in tasks.items()}
    rows = [_row(name, own, marks, registry) for name, own in tasks.items()]
    newest = max(record.created for record in records)[:10]
    return {"index.md": LIST.format(count=len(records), newest=newest, rows="\n".join(rows)), **pages}


def names_of(records: Iterable[Record]) -> list[str]:
    """Return the names of the records' tasks that can be the name of a page, sorted."""
    names = {record.task.name for record in records}
    return sorted(name for name in names if re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) and name != "index")


LIST = """# Boards

What the {count} records in `leaderboards` say, the newest of {newest}. One page for each task. \
[How to read the numbers](../explanation/reading-numbers.md) explains every column, \
[Limits](../explanation/limits.md) what must not be concluded, and \
[Joining a board](../how-to/join-a-board.md) how records come here.

| board | task | records | run again | first |
|---|---|--:|--:|---|
{rows}

*Run again*: records that were reproduced with `attrbench reproduce`: the same command gave a result in the record's \
interval. *First*: the runs that share the first rank, by the metric of the task.
"""


def _row(name: str, own: Sequence[Record], marks: Sequence[Mark], registry: Registry) -> str:
    """Return the line of a task in the list of boards."""
    tables = [table for table in build_tables(own) if table.ranked]
    first = [row for table in tables for row in table.ranked if row.rank == 1]
    named = ", ".join(markdown_text(shown(row.record.method.label)) for row in first[:4])
    more = f" and {len(first) - 4} more" if len(first) > 4 else ""
    cells = [f"[{name}]({name}.md)", _summary(name, registry), str(len(own)), str(len(_marked(own, marks)))]
    return f"| {' | '.join(cells)} | {named or 'costs only'}{more} |"


def _board(name: str, own: Sequence[Record], marks: Sequence[Mark], registry: Registry) -> str:
    """Return the page of a task: its board, one for each version of the task, and where the records come from."""
    tables = build_tables(own)
    lines = [f"# {name}", "", f"{_summary(name, registry)}. [About the task](../reference/tasks.md).", ""]
    for table in tables:
        marked = _marked([row.record for row in [*table.ranked, *table.below]], marks)
        columns = filled_columns(table, [*request_columns(COLUMNS, [table]), _again(marked)])
        title = "Board" if len(tables) == 1 else f"Board of {markdown_text(shown(table.task))} v{table.version}"
        lines += [f"## {title}", "", *markdown_rows(table, columns), ""]
        lines += [f"- {markdown_text(line)}" for line in caption(table, {column.name for column in columns})]
        lines += ["", *_retraining(table), *_without_top(table), *_agreement(table)]
    best = next((row.record for table in tables for row in table.ranked), own[0])
    return "\n".join([*lines, "## Where this comes from", "", *_sources(name, own, best, registry), ""])


def _retraining(table: Table) -> list[str]:
    """Return a section with the values of all measures of retrained models, without intervals; empty without any."""
    runs = [row.record for row in [*table.ranked, *table.below]]
    known = {result.name for record in runs for result in record.metrics}
    names = [name for name in MEASURES if name in known]
    if not names:
        return []
    columns = request_columns(["rank", "method", *names, runs[0].task.main_metric], [table])
    columns = [without_interval(column) for column in columns]
    return ["## By each measure of retraining", "", MEANING, "", *markdown_rows(table, columns), ""]


def _without_top(table: Table) -> list[str]:
    """Return a section on models trained without a query's own top; empty where no run has such.

    Runs of equal k, queries and seeds stand in one table, one line a run.
    """
    plans: dict[tuple[int, ...], list[Row]] = {}
    for row in table.ranked:
        facts = row.record.facts
        if "leave_k_out_detectable" in facts:
            plan = (_left_out(row)[0].k or 0, int(facts["leave_k_out_queries"]), int(facts["leave_k_out_seeds"]))
            plans.setdefault(plan, []).append(row)
    lines = []
    for (k, queries, seeds), rows in sorted(plans.items()):
        names = list(dict.fromkeys(result.name for row in rows for result in _left_out(row)))
        columns = [*request_columns(["method", *names], [table]), DETECTABLE]
        text = WITHOUT_TOP.format(k=k, queries=queries, seeds=seeds, s="" if seeds == 1 else "s")
        shown_rows = markdown_rows(replace(table, ranked=rows, below=[]), columns)[: len(rows) + 2]
        lines += [text, "", *shown_rows, ""]
    return ["## Without a query's own top", "", *lines] if lines else []


def _left_out(row: Row) -> list[MetricResult]:
    """Return a run's results of the ground truth `leave-k-out`."""
    return [result for result in row.record.metrics if result.metric.startswith("leave-k-out")]


def _agreement(table: Table) -> list[str]:
    """Return a section on how alike the criteria of a board order its runs; empty where it has one criterion."""
    found = criteria_of(table, table.criteria)
    return [] if found is None else ["## How its criteria agree", "", *criteria_markdown(found), ""]


def _sources(name: str, own: Sequence[Record], best: Record, registry: Registry) -> list[str]:
    """Return lines on the age of records, the commands that show and repeat one, and the pages of their methods."""
    days = sorted({record.created[:10] for record in own})
    made = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    versions = ", ".join(sorted({shown(record.provenance.attrbench) for record in own}))
    methods = sorted({(record.method.name, record.method.distribution) for record in own})
    names = dict.fromkeys(name for name, _ in methods)
    described = {path.stem for path in METHODS.glob("*.md")}
    links = [f"[{method}](../methods/{method}.md)" for method in names if method in described]
    foreign = [(method, package) for method, package in methods if method not in registry.names("method")]
    count = f"{len(own)} record{'s' if len(own) > 1 else ''}"
    return [
        f"{count} in `leaderboards/{name}`, made {made} by attrbench {markdown_text(versions)}. Each has the"
        " command that repeats it:",
        "",
        "```console",
        f"$ attrbench leaderboard leaderboards -t {name}",
        *(f"$ attrbench {verb} {best.identity[:10]} --records leaderboards/{name}" for verb in ("show", "reproduce")),
        "```",
        "",
        f"{best.identity[:10]} is {markdown_text(method_text(best))}. `attrbench records ls leaderboards/{name}` lists"
        " all records.",
        "",
        f"Methods: {', '.join(links) or 'of other packages'}.",
        *(f"{markdown_text(shown(each))} is of {markdown_text(shown(package))}." for each, package in foreign),
    ]


def _summary(name: str, registry: Registry) -> str:
    return registry.task(name).meta.summary if name in registry.names("task") else "A task of another package"


def _marked(records: Iterable[Record], marks: Sequence[Mark]) -> dict[str, list[Mark]]:
    """Return identity -> marks of the records that have some."""
    found = {record.identity: [mark for mark in marks if mark.identity == record.identity] for record in records}
    return {identity: of_it for identity, of_it in found.items() if of_it}


def _again(marked: Mapping[str, Sequence[Mark]]) -> Column:
    """Return the column with the days on which records were reproduced, the commit, and the machine if another."""

    def cell(table: Table, row: Row) -> str:
        texts = []
        for mark in marked.get(row.record.identity, ()):
            where = "" if mark.hardware == row.record.hardware.hardware_class else f", {shown(mark.hardware)}"
            texts.append(f"✓ {mark.date}, {mark.revision[:7] or f'attrbench {shown(mark.attrbench)}'}{where}")
        return "; ".join(texts)

    return Column("run-again", "run again", cell, ())
