"""`attrbench reproduce RECORD`: run a record's command again, and compare the result with its interval."""

from __future__ import annotations

import datetime
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import typer

from attrbench import api
from attrbench.contracts.marks import IDENTITY, Mark, read_marks, write_marks
from attrbench.contracts.options import parse_spec
from attrbench.contracts.record import MetricResult, Record, read_records
from attrbench.contracts.record_files import one_record
from attrbench.errors import AttrbenchError
from attrbench.evaluation.folders import cache_folder
from attrbench.plugins import registry as plugins
from attrbench.reports.quantities import human_seconds
from attrbench.reports.table_cells import method_text, metric_text, shown
from attrbench.text import plain


def reproduce_record(
    name: str, records: Sequence[Path], out: Path | None, cache: Path | None, mark: Path | None, retrain: bool = False
) -> None:
    """Run a record's command and say whether the main metric falls into its interval.

    Args:
        name: the record, as `attrbench.contracts.record_files.one_record` takes it.
        records: folders to look in.
        out: folder in which to keep the new record; None not to keep it.
        cache: folder of features; None for the default one.
        mark: list of marks to which the record is added if it is reproduced; None for none.
        retrain: also measure the ground truths that runs measure only where they are named, such as `leave-k-out`,
            which trains models for hours. Else they are left out, as the main metric is none of theirs.

    Raises:
        typer.Exit: with code 1 where it does not.
        UsageError: for a name that no record has, or several.
        AttrbenchError: for a record whose command can't be run, and for marks that can't be read or given.
    """
    kept = one_record(name, records, api.warn)
    if mark is not None:
        read_marks(mark)  # what is no list of marks is told before the run
        if not re.match(IDENTITY, kept.record.identity):
            raise AttrbenchError("no mark of this record: its identity is no hash; leave out --mark")
    from attrbench.evaluation.verification import unsafe_command  # torch comes with it, and a wrong name is told first

    if fault := unsafe_command(kept.record.command):
        raise AttrbenchError(f"{fault}: {shown(kept.record.command)}")
    revision = "" if mark is None else _revision()
    words, left_out = _words(kept.record, retrain)
    typer.echo(plain(shlex.join(words)))
    if left_out:
        typer.echo(f"{shown(', '.join(left_out))} left out, as it trains models of its own; --retrain repeats it, too")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) if out is None else out
        _run(words, place, cache_folder(cache, None))
        again = _result_of(kept.record, place)
    lines, same = _comparison(kept.record, again)
    typer.echo("\n".join(lines))
    if not same:
        raise typer.Exit(1)
    if mark is not None:
        write_marks(mark, [*read_marks(mark), _mark(kept.record, again, revision)])
        typer.echo(f"marked in {plain(mark)}")


def _revision() -> str:
    """Return the commit of the checkout that attrbench runs from; an empty string outside of one.

    Raises:
        AttrbenchError: where there are uncommitted changes, but for those of boards and documents.
    """
    from attrbench.evaluation.provenance import git_state  # torch comes with it, as above

    revision, dirty = git_state("leaderboards", "docs", "README.md")
    if dirty:
        raise AttrbenchError("no mark from code with uncommitted changes: commit them, or leave out --mark")
    return revision or ""


def _mark(then: Record, now: Record, revision: str) -> Mark:
    """Return the mark of a record that was reproduced."""
    result = now.metric(then.task.main_metric)
    assert result is not None
    return Mark(
        identity=then.identity,
        task=then.task.label,
        method=then.method.label,
        metric=result.name,
        value=result.value,
        equal_rankings=_equal_rankings(then, now),
        queries=len(then.ranking),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        attrbench=now.provenance.attrbench,
        revision=revision,
        hardware=now.hardware.hardware_class,
    )


def _equal_rankings(then: Record, now: Record) -> int:
    return sum(a == b for a, b in zip(then.ranking, now.ranking, strict=False))


def _words(record: Record, retrain: bool) -> tuple[list[str], list[str]]:
    """Return the words of a record's command, and what is left out of it where nothing is to be trained again."""
    words = shlex.split(record.command)
    if retrain:
        return words, []
    registry = plugins.registry()
    kept, left_out = words[:2], []
    for flag, value in zip(words[2::2], words[3::2], strict=True):
        if flag == "--ground-truth" and not all(
            registry.ground_truth(spec.name).by_default for spec in parse_spec(value)
        ):
            left_out.append(value)
        else:
            kept += [flag, value]
    return kept, left_out


def _run(command: Sequence[str], out: Path, cache: Path) -> None:
    """Run a record's command in a process of its own, with its records in another folder, and scored again."""
    words = [*command[1:], "--out", str(out), "--cache", str(cache), "--rerun"]
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
        lines.append(f"{_equal_rankings(then, now)} of {len(then.ranking)} queries have the same ranking")
    if then.latency is not None and now.latency is not None:
        times = human_seconds(then.latency.query.p50), human_seconds(now.latency.query.p50)
        lines.append(f"query p50 {times[0]} then, {times[1]} now")
    verdict = "inside the interval" if inside else "outside of the interval"
    return [*lines, f"{'reproduced' if inside else 'not reproduced'}: {verdict} of the record"], inside


def _is_inside(value: float, result: MetricResult) -> bool:
    low, high = (result.value if bound is None else bound for bound in (result.low, result.high))
    return low - 1e-9 <= value <= high + 1e-9
