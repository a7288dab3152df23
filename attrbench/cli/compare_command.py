"""The command `attrbench compare`, which compares two methods, records or folders of records query by query."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from attrbench import api
from attrbench.cli.common import ELSE_RESULTS, Debug, OnlyTasks
from attrbench.contracts.record import Record
from attrbench.contracts.record_files import KeptRecord, kept_records, named_records, read_record
from attrbench.evaluation.folders import record_places
from attrbench.reports.compare import TOP, Comparison, Difference, compare_records, pair_records
from attrbench.reports.ranking import task_title
from attrbench.reports.table_cells import method_text, shown
from attrbench.reports.text_table import text_table


def compare(
    a: Annotated[str, typer.Argument(help="A method with its options, a record's file, or a folder of records.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    records: Annotated[
        list[Path] | None,
        typer.Option("--records", help=f"Folders in which methods are looked for {ELSE_RESULTS}."),
    ] = None,
    task: OnlyTasks = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Only by these metrics.")] = None,
    queries: Annotated[int, typer.Option(min=0, help="How many queries to name on which they differ most.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Compare two methods on the same queries: paired differences, wins, and where they disagree.

    Two folders are compared method by method.
    """
    folders = Path(a).is_dir() and Path(b).is_dir()
    first, second = (_records(name, record_places(records), task or ()) for name in (a, b))
    pairs = pair_records(first, second, by_method=folders, tasks=task or ())
    found = [compare_records(*pair, metric or (), queries) for pair in pairs]
    if as_json:
        typer.echo(json.dumps([_document(comparison) for comparison in found], indent=1))
    elif folders:
        typer.echo("\n".join(_overview(found)))
    else:
        typer.echo("\n\n".join("\n".join(_lines(comparison)) for comparison in found))


def _records(name: str, places: Sequence[Path], tasks: Sequence[str]) -> list[KeptRecord]:
    if Path(name).is_file():
        return [read_record(Path(name))]
    if Path(name).is_dir():
        return kept_records([name], api.warn)
    found = kept_records(places, api.warn)
    return named_records(name, [kept for kept in found if not tasks or kept.record.task.name in tasks])


def _lines(found: Comparison) -> list[str]:
    """Return a comparison as lines of text."""
    titles = ("metric", "A", "B", "A - B", "95% interval", "better", "wins A/B/=")
    rows = [_row(difference) for difference in found.differences]
    lines = [
        f"{shown(task_title(found.a.task))} v{found.a.task.version}, {found.a.coverage.queries} queries, paired",
        f"A: {method_text(found.a)}",
        f"B: {method_text(found.b)}",
        "",
        *text_table(titles, rows),
    ]
    if others := [difference.metric for difference in found.differences if difference.of_other_models]:
        names = shown(", ".join(others))
        lines += ["", f"A and B were compared with different retrained models, so no interval of {names}."]
    if found.overlap is not None:
        lines += ["", f"Of the top {TOP} they share {found.overlap:.0%} on average."]
    if found.disagreements:
        metric = found.differences[0].metric
        titles = ("query", "group", "A", "B", f"shared of {TOP}", "first of A", "first of B")
        texts = [
            [str(each.query), shown(each.group), f"{each.a:.3f}", f"{each.b:.3f}", str(each.shared)]
            + [str(item) for item in each.nearest]
            for each in found.disagreements
        ]
        lines += ["", f"They differ most, by {shown(metric)}, on:", *text_table(titles, texts, left=(1,))]
    return lines


def _row(difference: Difference) -> tuple[str, ...]:
    low_high = difference.interval
    return (
        shown(difference.metric),
        f"{difference.a.value:.3f}",
        f"{difference.b.value:.3f}",
        f"{difference.value:+.3f}",
        "" if low_high is None else f"[{low_high[0]:+.3f}, {low_high[1]:+.3f}]",
        difference.better or "–",
        "/".join(map(str, difference.wins)),
    )


def _overview(found: Sequence[Comparison]) -> list[str]:
    """Return one line for each pair of two folders, by the first metric of each."""
    titles = ("task", "method", "metric", "A", "B", "A - B", "95% interval", "better")
    rows = [
        (shown(each.a.task.name), method_text(each.a), *_row(each.differences[0])[:6])
        for each in sorted(found, key=lambda each: (each.a.task.name, each.a.method.label))
    ]
    apart = sum(bool(each.differences[0].better) for each in found)
    return [*text_table(titles, rows, left=(0, 1, 2)), "", f"{len(found)} pairs, {apart} of them told apart"]


def _document(found: Comparison) -> dict[str, object]:
    def run(record: Record) -> dict[str, object]:
        return {"method": record.method.label, "identity": record.identity, "created": record.created}

    return {
        "task": task_title(found.a.task),
        "version": found.a.task.version,
        "a": run(found.a),
        "b": run(found.b),
        "overlap_at_10": found.overlap,
        "differences": [
            {
                "metric": each.metric,
                "a": each.a.value,
                "b": each.b.value,
                "difference": each.value,
                "low": None if each.interval is None else each.interval[0],
                "high": None if each.interval is None else each.interval[1],
                "better": each.better or None,
                "of_other_models": each.of_other_models,
                "wins": dict(zip(("a", "b", "equal"), each.wins, strict=True)),
            }
            for each in found.differences
        ],
        "disagreements": [vars(each) for each in found.disagreements],
    }
