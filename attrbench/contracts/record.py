"""The record of one method's run on a task: a versioned JSON document with results and all needed to repeat them."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import from_json

from attrbench.contracts.record_check import checked_content, file_content
from attrbench.contracts.record_costs import Count, Hardware, Latency, RecordPart, Storage
from attrbench.contracts.record_origin import Provenance, Tuned
from attrbench.errors import AttrbenchError
from attrbench.files import write_atomically
from attrbench.text import one_line

SCHEMA_VERSION = 1
TUNING_RUNS = "tuning-runs"
"""Folder of the cache for records on which options were chosen; they are not read with the others."""
PART_RUNS = "part-runs"
"""Likewise for records of the single models of a task of several models."""
CHANGED = "changed after it was written (its checksum differs)"
FAULT = 300
"""Characters of a fault that are shown at most; a file may bring its own text."""


class TaskInfo(RecordPart):
    """The part of a record on the task that ran: name, version, options, fingerprint of its data and main metric.

    Attributes:
        fingerprint: covers version, options, training set and queries, and so the weights.
        scale: whether only time, memory and storage mean anything, as with random weights.
    """

    name: str
    version: int
    label: str
    options_given: dict[str, str]
    options: dict[str, object]
    fingerprint: str
    main_metric: str
    scale: bool = False


class MethodInfo(RecordPart):
    """The part of a record on the method that ran: name, version, options; `label` is the `-m` string to repeat it."""

    name: str
    version: int
    label: str
    summary: str
    distribution: str
    options_given: dict[str, str]
    options: dict[str, object]


class Coverage(RecordPart):
    """The numbers of training items and queries that a run used, out of how many, and its non-finite gradients.

    Attributes:
        train_items, queries: what was scored.
        train_total, queries_total: what the task holds.
        nonfinite: (split, item, timestep) of every gradient that was NaN or infinite.
    """

    train_items: Count
    train_total: Count
    queries: Count
    queries_total: Count
    nonfinite: list[tuple[str, int, int | float]] = Field(default_factory=list)

    @property
    def extent(self) -> tuple[int, int]:
        """Return the numbers of training items and queries, by which two runs answer the same question or do not."""
        return self.train_items, self.queries

    @property
    def is_whole(self) -> bool:
        """Return whether all of the task was scored."""
        return self.extent == (self.train_total, self.queries_total)


class TrainingNoise(RecordPart):
    """The standard error of a result of retrained models over other models, with degrees of freedom.

    Attributes:
        error: standard error of the result.
        freedom: degrees of freedom that it was estimated with.
        parts: what each subset, or model, adds to the error, in the order of the models: its square is the sum of
            their squares, and the squared error of the difference of two results of the same models is that of the
            differences of their parts. None where the error of a difference is `error` itself.
    """

    error: float
    freedom: int
    parts: list[float] | None = None

    def of_difference(self, other: TrainingNoise) -> float:
        """Return the standard error, over other models, of the difference of two results of the same models."""
        if self.parts is None or other.parts is None or len(self.parts) != len(other.parts):
            return math.hypot(self.error, other.error) / math.sqrt(2)  # two estimates of one
        return math.dist(self.parts, other.parts)


class MetricResult(RecordPart):
    """The result of one metric: mean over queries, 95% interval, ceiling, random baseline, values per query.

    Attributes:
        metric: name of the metric; `k` its cut-off.
        value: mean over the queries.
        low, high: 95% percentile-bootstrap interval over the queries; None for a single query. Of a ground truth,
            the interval over what it draws: training seeds and pictures, or queries and subsets; None for too few.
        ceiling: mean of the best reachable values; of a ground truth, what its ceiling control
            reached, or its noise ceiling.
        random: expectation under a uniformly random ranking; of a ground truth, what random removal did, or 0.
        per_query: the value of each query, in query order; for a metric of retrained models, that of each picture.
        higher_is_better: the metric's direction.
        clusters: `per_query` is so many equal runs of values, one after the other, that belong together: one for each
            training seed.
        noise: of a metric of retrained models with several seeds.
        criterion: whether a ground truth gives it, and boards rank by it where a task has it.
    """

    metric: str
    k: int | None
    value: float
    low: float | None
    high: float | None
    ceiling: float | None
    random: float | None
    per_query: list[float]
    higher_is_better: bool
    clusters: int = Field(default=1, ge=1)
    noise: TrainingNoise | None = None
    criterion: bool = False

    @model_validator(mode="after")
    def _equal_clusters(self) -> Self:
        if len(self.per_query) % self.clusters:
            raise ValueError(f"{len(self.per_query)} values of per_query are not {self.clusters} equal runs of values")
        return self

    @property
    def finite(self) -> bool:
        """Return whether the value, its interval and the value of every query are neither NaN nor infinite."""
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        return all(map(math.isfinite, (self.value, *bounds, *self.per_query)))

    @property
    def name(self) -> str:
        """Return the metric's name with its cut-off, such as `detection-rate@10`."""
        return self.metric if self.k is None else f"{self.metric}@{self.k}"


class Control(RecordPart):
    """The main metric of a ground truth for items to remove that something other than the method chose, to compare.

    Attributes:
        name: what chose them, in words.
        result: the metric; its `per_query` may be left empty.
        shared: whether it is the same for every method; False where it was made to match the method's choice.
    """

    name: str
    result: MetricResult
    shared: bool = True


class Record(RecordPart):
    """The record of one method's run on one task: status, metrics, rankings, costs, hardware and provenance.

    Attributes:
        status: `complete`; `limited` where the user asked for fewer items; `partial` where items are missing;
            `failed` where the method raised. Only complete runs are ranked, and no scale runs (`TaskInfo.scale`).
        metrics_asked: names of the metrics that were computed, whether they applied or not; empty in records of
            version 0.1.
        ranking: for each query the training ids at the top, strongest first.
        notes: what a reader must know: images that were left out, metrics that do not apply and why.
        facts: what the method says of itself: the damping it used, a residual, a number of steps; and what a
            ground truth says of itself: how many items it removed, how many models it rests on.
        left_out: ground truths of the task that could not be had; the next run makes such a record again.
        tuned: how the options were chosen; None where they were given.
        controls: of a ground truth: the main metric where something else chose what to remove.
        peak_memory_bytes, peak_device_bytes: of the process and of torch on a CUDA device, while this run's passes
            that serve the method were computed and while it was fitted and asked; libraries included.
        identity: hash of all that decides the result; a record with the same identity is not computed again.
        check: of the file, on its last line (`attrbench.contracts.record_check`); None once it was read.
    """

    schema_version: int = SCHEMA_VERSION
    identity: str
    status: Literal["complete", "limited", "partial", "failed"]
    error: str | None = None
    created: str
    task: TaskInfo
    method: MethodInfo
    coverage: Coverage
    metrics: list[MetricResult] = Field(default_factory=list)
    metrics_asked: list[str] = Field(default_factory=list)
    controls: list[Control] = Field(default_factory=list)
    tuned: Tuned | None = None
    query_groups: list[str] = Field(default_factory=list)
    ranking: list[list[int]] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    left_out: list[str] = Field(default_factory=list)
    facts: dict[str, float] = Field(default_factory=dict)
    storage: Storage | None = None
    latency: Latency | None = None
    peak_memory_bytes: int | None = None
    peak_device_bytes: int | None = None
    hardware: Hardware
    provenance: Provenance
    seed: int
    command: str
    check: str | None = None

    @model_validator(mode="after")
    def _costs_of_a_result(self) -> Self:
        if self.status != "failed" and (self.storage is None or self.latency is None):
            raise ValueError(f"a {self.status} record has storage and latency")
        return self

    def metric(self, name: str) -> MetricResult | None:
        """Return the result of the metric called `name`, such as `detection-rate@10`, or None."""
        return next((result for result in self.metrics if result.name == name), None)


def record_path(folder: Path, task: str, label: str, identity: str) -> Path:
    """Return where the record of a method's run on a task lies below `folder`: TASK/METHOD-IDENTITY.json."""
    safe = "".join(c if c.isalnum() or c in "-_.=" else "-" for c in label)
    return folder / task / f"{safe[:80]}-{identity[:10]}.json"


def write_record(record: Record, folder: Path) -> Path:
    """Write a run's record as JSON below `folder`, to TASK/METHOD-IDENTITY.json, and return the path."""
    path = record_path(folder, record.task.name, record.method.label, record.identity)
    try:
        write_atomically(path, file_content(record))
    except OSError as error:
        raise AttrbenchError(
            f"cannot write the record {path}: {error.strerror}; choose another folder with --out"
        ) from None
    return path


def parse_record(content: bytes, rankings: bool = True) -> Record:
    """Return the record in the content of a file, with its rankings or without, which takes a fifth of the time.

    Raises:
        ValidationError: where it is no record.
        ValueError: where it was changed after it was written.
    """
    record = Record.model_validate_json(checked_content(content, rankings))
    if record.check is not None:
        raise ValueError(CHANGED)
    return record


def read_records(folder: Path) -> tuple[list[Record], list[str]]:
    """Return all records below `folder`, sorted by path, and one line for each file that could not be read.

    Records of tuning queries and of parts are left out, unless `folder` holds them alone. So are other JSON files.
    """
    records, problems = records_below(folder)
    return list(records.values()), problems


def records_below(folder: Path, rankings: bool = True) -> tuple[dict[Path, Record], list[str]]:
    """Return the records of `read_records` by path, with rankings or without, and a line for each unreadable file."""
    records: dict[Path, Record] = {}
    problems: list[str] = []
    with no_collection():
        for path in _json_files(folder):
            try:
                record = read_file(path, rankings)
            except (OSError, ValueError) as error:
                problems.append(f"{one_line(path)}: {fault(error)}")
            else:
                if record is not None:
                    records[path] = record
    return records, problems


@contextmanager
def no_collection() -> Iterator[None]:
    """Pause the collector of garbage: records are many objects, none of them garbage, and it looks at all of them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _json_files(folder: Path) -> Iterator[Path]:
    """Yield what is called a JSON file below a folder, sorted, but for records of tuning queries and of parts."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - {TUNING_RUNS, PART_RUNS})
        yield from (Path(place, name) for name in sorted([*files, *folders]) if name.endswith(".json"))


def read_file(path: Path, rankings: bool = True) -> Record | None:
    """Return the record in a file, with its rankings or without, or None for JSON that is no record.

    Raises:
        OSError: where the file can't be read.
        ValueError: where it is not JSON, or a record of another schema version or with faults.
    """
    if not path.is_file():
        raise OSError("no regular file")  # reading a pipe would wait for somebody to write to it
    content = path.read_bytes()
    try:
        record = parse_record(content, rankings)
    except ValidationError:
        document = from_json(content)
        if not isinstance(document, dict) or "schema_version" not in document:
            return None
        _check_schema(document["schema_version"])
        raise
    _check_schema(record.schema_version)
    return record if "schema_version" in record.model_fields_set else None


def _check_schema(version: object) -> None:
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema version {version}, this attrbench reads {SCHEMA_VERSION}")


def fault(error: OSError | ValueError) -> str:
    """Return why a file is no readable record: for a record with faults the place and kind of the first one."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        return one_line(f"not a readable record: {place}{': ' if place else ''}{first['msg']}")[:FAULT]
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    kind = "" if str(error).startswith(("schema", CHANGED)) else "damaged, not JSON: "
    return f"{kind}{one_line(error)[:FAULT]}"
