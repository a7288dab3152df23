"""The records that a suite's table is made of: run what is missing, or take what folders of records hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attrbench import api
from attrbench.contracts.record import Record
from attrbench.contracts.record_files import KeptRecord, kept_records
from attrbench.errors import AttrbenchError, Unavailable, error_line
from attrbench.evaluation.requests import MethodRequest
from attrbench.reports.table_cells import shown
from attrbench.suites.plan import Needed

MANY = 1 << 40
"""Training items of a task that tells their number only when it is open: no option is too large for it here."""


@dataclass(frozen=True)
class RunOptions:
    """The folders, device and executor of a suite's runs, as `attrbench.run` takes them.

    Attributes:
        records: folders to take records from, in which case nothing is run.
        scores: keep the scores of all items, for which what has a record is scored again.
    """

    out: Path | None = None
    cache: Path | None = None
    read_cache: Sequence[Path] | None = None
    device: str | None = None
    executor: str = "inline"
    records: Sequence[Path] = ()
    scores: bool = False


@dataclass
class Runs:
    """The records of a suite by task and method, and a line for each that there is not.

    Attributes:
        found: (key of the task, method as the suite writes it) -> its record.
        scores: the same -> [m, n] scores, where they were asked for and the method scores all items.
        problems: why there are not more.
    """

    found: dict[tuple[str, str], Record] = field(default_factory=dict)
    scores: dict[tuple[str, str], NDArray[np.float32]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def record(self, task: str, method: str) -> Record | None:
        """Return the record of a method on a task; None where there is none, or none with results."""
        return self.found.get((task, method))

    def add(self, needed: Needed, method: str, record: Record) -> None:
        """Keep a record that has results; of another, say why it has none."""
        if record.status == "failed":
            self.problems.append(f"{method} on {needed.request.label} failed: {shown(record.error)}")
            return
        if record.status == "partial":
            self.problems.append(f"{method} on {needed.request.label} is partial: {shown('; '.join(record.notes))}")
        self.found[needed.table.paper, method] = record


def run_needed(needed: Sequence[Needed], options: RunOptions, dry_run: bool = False) -> Runs:
    """Run the methods of a suite on its tasks and return the records; what has a record is not run again.

    A task that can't be opened, and a method that can't run, leave a line and take nothing else along. A dry run shows
    the plan of each task and stops.

    Raises:
        AttrbenchError: where no task could be run at all.
    """
    runs = Runs()
    errors = []
    for each in needed:
        able = _able(each, runs)
        if not able:
            continue
        try:
            results = api.run(
                [request.label for request in able.values()],
                each.request.label,
                out=options.out,
                cache=options.cache,
                read_cache=options.read_cache,
                device=options.device,
                executor=options.executor,
                rerun=options.scores,
                dry_run=dry_run,
                keep_scores=options.scores,
            )
        except AttrbenchError as error:
            errors.append(error)
            runs.problems.append(f"{each.request.label}: {error_line(error)}")
            continue
        for text, request in able.items():
            for result in (result for result in results if _is_of(result.record, each, request)):
                runs.add(each, text, result.record)
                if result.scores is not None:
                    runs.scores[each.table.paper, text] = result.scores
    if errors and len(errors) == len(needed) and not dry_run:
        raise errors[0]
    return runs


def _able(needed: Needed, runs: Runs) -> dict[str, MethodRequest]:
    """Return the methods that can run here; the others leave a line."""
    items = needed.request.task.meta.train_items or MANY
    able = {}
    for text, request in needed.methods.items():
        try:
            request.method.check(items)
            able[text] = request
        except Unavailable as error:
            runs.problems.append(f"{text} on {needed.request.label}: {error_line(error)}")
    return able


def kept_runs(needed: Sequence[Needed], folders: Sequence[Path]) -> Runs:
    """Return the newest records of a suite's methods on its tasks that folders hold, with a line on what they lack.

    Raises:
        AttrbenchError: for a folder that is not there, or where none of them has any of the records.
    """
    kept = kept_records(folders, api.warn)
    runs = Runs()
    for each in needed:
        lacking = []
        for text, request in each.methods.items():
            record = _newest(kept, each, request)
            if record is None:
                lacking.append(text)
            else:
                runs.add(each, text, record)
        if lacking:
            runs.problems.append(f"no record of {', '.join(lacking)} on {each.request.label}")
    if not runs.found and any(each.methods for each in needed):
        where = ", ".join(map(str, folders))
        raise AttrbenchError(f"{where}: no record of this suite's methods on its tasks; without --records they are run")
    return runs


def _newest(kept: Sequence[KeptRecord], needed: Needed, request: MethodRequest) -> Record | None:
    """Return the newest record of a method on a task that covers all of it."""
    same = [each.record for each in kept if _is_of(each.record, needed, request) and each.record.status != "limited"]
    return max(same, key=lambda record: record.created, default=None)


def _is_of(record: Record, needed: Needed, request: MethodRequest) -> bool:
    """Return whether a record is of a method and a task with these versions and options."""
    task, method = needed.request.task, request.method
    is_task = (record.task.name, record.task.version) == (task.meta.name, task.meta.version)
    is_method = (record.method.name, record.method.version) == (request.spec.name, method.version)
    return (
        is_task
        and is_method
        and record.task.options == task.options.model_dump(mode="json")
        and record.method.options == method.options.model_dump(mode="json")
    )
