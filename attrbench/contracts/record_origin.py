"""The parts of a record on its origin: the software that made it, and the choice of a tuned method's options."""

from __future__ import annotations

from attrbench.contracts.record_costs import RecordPart


class Provenance(RecordPart):
    """The software that produced a record: versions of attrbench, Python and packages, code hash, git revision."""

    attrbench: str
    code: str
    packages: dict[str, str]
    python: str
    git_revision: str | None
    git_dirty: bool | None


class Tried(RecordPart):
    """One option value tried on the tuning queries: the metric it reached with its interval, or why there is none.

    Attributes:
        label: the `-m` string.
        value, low, high: of the metric that decides, with its interval; None where there is no result.
        why: why there is none.
    """

    label: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


class Tuned(RecordPart):
    """The report of how a method's options were chosen: values tried on tuning queries, which are never reported on.

    Attributes:
        sweep: the `-m` string with the values.
        by: the metric that decided.
        task: the `-t` string of the task with the tuning queries.
        fingerprint: of that task.
        queries: number of them.
        tried: the values in the order given.
    """

    sweep: str
    by: str
    task: str
    fingerprint: str
    queries: int
    tried: list[Tried]
