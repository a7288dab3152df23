"""Metrics added to records that exist: from their rankings, and from later runs of the same methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attrbench.contracts.record import Record
from attrbench.contracts.record_check import file_content
from attrbench.contracts.record_files import KeptRecord
from attrbench.contracts.task import OpenTask
from attrbench.errors import AttrbenchError
from attrbench.evaluation.record_tasks import RecordTasks
from attrbench.evaluation.rescore import Rescored, rescore, with_metrics_of, with_models_of, without
from attrbench.files import write_atomically
from attrbench.reports.table_cells import method_text, shown
from attrbench.text import one_line, plain


@dataclass(frozen=True)
class LaterRuns:
    """Records of later runs of the same methods, in a folder.

    Attributes:
        replace: whether what their retrained models say takes the place of what the records have of other ones.
    """

    folder: Path
    records: Sequence[KeptRecord]
    replace: bool

    def of(self, record: Record) -> Record:
        """Return the newest run of a record's method with its options, whose label may differ, on its task."""
        asked = _asked(record)
        runs = [kept.record for kept in self.records if _asked(kept.record) == asked]
        if not runs:
            raise AttrbenchError(f"there is none of it, with the same options, in {one_line(self.folder)}")
        return max(runs, key=lambda run: run.created)


def _asked(record: Record) -> tuple[object, ...]:
    return record.task.label, record.method.name, record.method.options


@dataclass
class RecordScoring:
    """Adds metrics to one record after the other, and says of each what it got.

    Attributes:
        tasks: the records' tasks.
        later: later runs, from which to take what a record lacks; None for none.
        say: called with a line on each record.
        note: called with a line on each metric and ground truth that raised.
        lacking: metrics that gave nothing, with the number of records.
    """

    tasks: RecordTasks
    later: LaterRuns | None
    say: Callable[[str], object]
    note: Callable[[str], None]
    lacking: Counter[str] = field(default_factory=Counter)

    def score(self, kept: KeptRecord) -> None:
        """Add to a record what its rankings and a later run of it give, write it, and say so in a line."""
        record = kept.record
        label = f"{method_text(record)} on {shown(record.task.label)}"
        if record.status == "failed" or not record.ranking:
            self.say(f"{label}: has no rankings")
            return
        opened = self.tasks.of(record)
        if isinstance(opened, str):
            self.say(f"{label}: left as it is: {shown(opened)}")
            return
        added: list[str] = []
        try:
            again = None if self.later is None else self.later.of(record)
            if self.later is not None and again is not None and self.later.replace:
                record, added = self._with_models_of(record, again, opened)
        except AttrbenchError as error:
            again = None
            self.say(f"{label}: nothing of another run: {plain(error)}")
        scored = self._rescored(record, opened)
        if scored.other_models:
            self.say(f"{label}: nothing of retrained models: {shown(scored.other_models[0])}")
        record, added = scored.record, [*added, *scored.added]
        if again is not None:
            try:
                record, more = with_metrics_of(record, again)
                added += more
            except AttrbenchError as error:
                self.say(f"{label}: nothing of another run: {plain(error)}")
        known = {result.metric for result in record.metrics}
        self.lacking.update(name for name in scored.lacking if name not in known)
        if record != kept.record:
            _write(kept, record)
        self.say(f"{label}: {'added ' + plain(', '.join(dict.fromkeys(added))) if added else 'nothing to add'}")

    def _rescored(self, record: Record, opened: OpenTask) -> Rescored:
        return rescore(self.tasks.registry, record, opened, self.note, self.tasks.truths_of(record))

    def _with_models_of(self, record: Record, again: Record, opened: OpenTask) -> tuple[Record, list[str]]:
        """Return a record with what the models of a later run say; what its own rankings give comes of these."""
        record, names = with_models_of(record, again)
        other = set(self._rescored(record, opened).wrong).intersection(names)  # where the two rank a little otherwise
        return without(record, other), names


def _write(kept: KeptRecord, record: Record) -> None:
    try:
        write_atomically(kept.path, file_content(record))
    except OSError as error:
        raise AttrbenchError(f"cannot write the record {one_line(kept.path)}: {error.strerror}") from None
