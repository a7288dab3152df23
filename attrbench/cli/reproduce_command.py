"""The command `attrbench reproduce`, which runs a record's command and compares the result with its interval."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from attrbench import api
from attrbench.cli.common import RESULTS, Cache, Debug, LookIn, RecordName
from attrbench.contracts.record import MetricResult, Record, read_records
from attrbench.contracts.record_files import one_record
from attrbench.errors import AttrbenchError
from attrbench.evaluation.folders import cache_folder
from attrbench.reports.columns import metric_text
from attrbench.reports.table_cells import human_seconds, method_text, shown
from attrbench.text import plain


def reproduce(
    record: RecordName,
    records: LookIn = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder in which to keep the new record [default: it is not kept].")
    ] = None,
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Run a record's command and say whether the result falls into its interval; exit 1 where it does not."""
    kept = one_record(record, records or [RESULTS], api.warn)
    from attrbench.evaluation.verification import unsafe_command  # torch comes with it, and a wrong name is told first

    if fault := unsafe_command(kept.record.command):
        raise AttrbenchError(f"{fault}: {shown(kept.record.command)}")
    typer.echo(plain(kept.record.command))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) if out is None else out
        _run(kept.record.command, place, cache_folder(cache, None))
        again = _result_of(kept.record, place)
    lines, same = _comparison(kept.record, again)
    typer.echo("\n".join(lines))
    if not same:
        raise typer.Exit(1)


def _run(command: str, out: Path, cache: Path) -> None:
    """Run a record's command in a process of its own, with its records in another folder, and scored again."""
    words = [*shlex.split(command)[1:], "--out", str(out), "--cache", str(cache), "--rerun"]
    done = subprocess.run([sys.executable, "-m", "attrbench", *words], stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 3):
        raise AttrbenchError(f"the command ended with exit code {done.returncode}; what it said stands above")


def _result_of(record: Record, folder: Path) -> Record:
    """Return the newest record in a folder that is of the same method and task as a record.

    Raises:
        AttrbenchError: where there is none, as where a tuned method's options were chosen otherwise this time.
    """
    found = [each for each in read_records(folder)[0] if each.task.name == record.task.name]
    same = [each for each in found if each.method.label == record.method.label]
    if not same:
        others = ", ".join(each.method.label for each in found) or "nothing"
        raise AttrbenchError(f"the command gave no record of {record.method.label}, but {shown(others)}")
    return max(same, key=lambda each: each.created)


def _comparison(then: Record, now: Record) -> tuple[list[str], bool]:
    """Return lines that compare a record with the one that its command gave, and whether it is reproduced."""
    name = then.task.main_metric
    before, after = then.metric(name), now.metric(name)
    if before is None or after is None:
        raise AttrbenchError(f"{name} is not in both records: {now.error or now.status}")
    inside = _is_inside(after.value, before)
    lines = [
        f"{method_text(then)} on {shown(then.task.label)}",
        f"then: {name} {metric_text(before)}",
        f"now:  {name} {metric_text(after)}",
    ]
    if then.task.fingerprint != now.task.fingerprint:
        return [*lines, "not comparable: the task has other data, queries, options or version here"], False
    if then.ranking and len(then.ranking) == len(now.ranking):
        equal = sum(a == b for a, b in zip(then.ranking, now.ranking, strict=True))
        lines.append(f"{equal} of {len(then.ranking)} queries have the same ranking")
    if then.latency is not None and now.latency is not None:
        times = human_seconds(then.latency.query.p50), human_seconds(now.latency.query.p50)
        lines.append(f"query p50 {times[0]} then, {times[1]} now")
    verdict = "inside the interval" if inside else "outside of the interval"
    return [*lines, f"{'reproduced' if inside else 'not reproduced'}: {verdict} of the record"], inside


def _is_inside(value: float, result: MetricResult) -> bool:
    low, high = (result.value if bound is None else bound for bound in (result.low, result.high))
    return low - 1e-9 <= value <= high + 1e-9
