"""The record of one method's run on a task: a versioned JSON document with results and all needed to repeat them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from attrbench.errors import AttrbenchError
from attrbench.files import write_atomically

SCHEMA_VERSION = 1
TUNING_RUNS = "tuning-runs"
"""Folder of the cache for records on which options were chosen; they are not read with the others."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskInfo(_Part):
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


class MethodInfo(_Part):
    """The part of a record on the method that ran: name, version, options; `label` is the `-m` string to repeat it."""

    name: str
    version: int
    label: str
    summary: str
    distribution: str
    options_given: dict[str, str]
    options: dict[str, object]


class Coverage(_Part):
    """The numbers of training items and queries that a run used, out of how many, and its non-finite gradients.

    Attributes:
        train_items, queries: what was scored.
        train_total, queries_total: what the task holds.
        nonfinite: (split, item, timestep) of every gradient that was NaN or infinite.
    """

    train_items: int
    train_total: int
    queries: int
    queries_total: int
    nonfinite: list[tuple[str, int, int | float]] = []


class TrainingNoise(_Part):
    """The standard error of a result of retrained models over other training seeds, with degrees of freedom.

    Attributes:
        error: standard error of the result, and of the difference of two results over the same training seeds.
        freedom: degrees of freedom that it was estimated with.
    """

    error: float
    freedom: int


class MetricResult(_Part):
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
    clusters: int = 1
    noise: TrainingNoise | None = None

    @property
    def name(self) -> str:
        """Return the metric's name with its cut-off, such as `detection-rate@10`."""
        return self.metric if self.k is None else f"{self.metric}@{self.k}"


class Control(_Part):
    """The main metric of a ground truth for items to remove that something other than the method chose, to compare.

    Attributes:
        name: what chose them, in words.
        result: the metric; its `per_query` may be left empty.
        shared: whether it is the same for every method; False where it was made to match the method's choice.
    """

    name: str
    result: MetricResult
    shared: bool = True


class Storage(_Part):
    """The bytes that a method keeps to answer a new query: rows of training items, shared state, search index.

    Attributes:
        rows: what is kept for the training items, as numbers.
        rows_on_disk: the files that hold them, with headers; 0 where the method's features are not stored.
        shared: state kept once (a projection, a permutation, factors).
        index: a search index.
        rows_if_kept: for methods that keep no rows: what keeping them would take.
        row_error: root mean square of the relative error of a row that its storage type causes.
    """

    rows: int
    rows_on_disk: int
    shared: int
    index: int
    rows_if_kept: int | None = None
    row_error: float | None = None

    @property
    def total(self) -> int:
        """Return the bytes needed to answer a new query: rows, shared state and index together."""
        return self.rows + self.shared + self.index


class Quantiles(_Part):
    """The median and the 95th percentile over queries of a time in seconds."""

    p50: float
    p95: float


class Latency(_Part):
    """The times of a run in seconds: one-time (cache, fit) apart from per query; warm-up excluded, device synchronized.

    Attributes:
        cache: computing the training features, once a training set. A pass that served several methods counts
            in full for each.
        fit: building the scorer's state and index, once a training set.
        gradient: a query's features. For a method that keeps no rows this holds the pass over the training set.
        score: ranking the training set for one query, given its features.
        query: the two together.
    """

    cache: float
    fit: float
    gradient: Quantiles
    score: Quantiles
    query: Quantiles


class Hardware(_Part):
    """The machine of a run: device, processor, cores, memory; leaderboards compare within one `hardware_class`."""

    hardware_class: str
    device: str
    processor: str
    cores: int
    threads: int
    memory_bytes: int


class Provenance(_Part):
    """The software that produced a record: versions of attrbench, Python and packages, code hash, git revision."""

    attrbench: str
    code: str
    packages: dict[str, str]
    python: str
    git_revision: str | None
    git_dirty: bool | None


class Tried(_Part):
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


class Tuned(_Part):
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


class Record(_Part):
    """The record of one method's run on one task: status, metrics, rankings, costs, hardware and provenance.

    Attributes:
        status: `complete`; `limited` where the user asked for fewer items; `partial` where items are missing;
            `failed` where the method raised. Only complete runs are ranked, and no scale runs (`TaskInfo.scale`).
        ranking: for each query the training ids at the top, strongest first.
        notes: what a reader must know: images that were left out, metrics that do not apply and why.
        facts: what the method says of itself: the damping it used, a residual, a number of steps; and what a
            ground truth says of itself: how many items it removed, how many models it rests on.
        tuned: how the options were chosen; None where they were given.
        controls: of a ground truth: the main metric where something else chose what to remove.
        peak_memory_bytes, peak_device_bytes: of the process and of torch on a CUDA device, while this run's passes
            that serve the method were computed and while it was fitted and asked; libraries included.
        identity: hash of all that decides the result; a record with the same identity is not computed again.
    """

    schema_version: int = SCHEMA_VERSION
    identity: str
    status: Literal["complete", "limited", "partial", "failed"]
    error: str | None = None
    created: str
    task: TaskInfo
    method: MethodInfo
    coverage: Coverage
    metrics: list[MetricResult] = []
    controls: list[Control] = []
    tuned: Tuned | None = None
    query_groups: list[str] = []
    ranking: list[list[int]] = []
    notes: list[str] = []
    facts: dict[str, float] = {}
    storage: Storage | None = None
    latency: Latency | None = None
    peak_memory_bytes: int | None = None
    peak_device_bytes: int | None = None
    hardware: Hardware
    provenance: Provenance
    seed: int
    command: str

    def metric(self, name: str) -> MetricResult | None:
        """Return the result of the metric called `name`, such as `detection-rate@10`, or None."""
        return next((result for result in self.metrics if result.name == name), None)


def write_record(record: Record, folder: Path) -> Path:
    """Write a run's record as JSON below `folder`, to TASK/METHOD-IDENTITY.json, and return the path."""
    safe = "".join(c if c.isalnum() or c in "-_.=" else "-" for c in record.method.label)
    path = folder / record.task.name / f"{safe[:80]}-{record.identity[:10]}.json"
    try:
        write_atomically(path, (record.model_dump_json(indent=1) + "\n").encode())
    except OSError as error:
        raise AttrbenchError(
            f"cannot write the record {path}: {error.strerror}; choose another folder with --out"
        ) from None
    return path


def read_records(folder: Path) -> tuple[list[Record], list[str]]:
    """Return all records below `folder`, sorted by path, and one line for each file that could not be read.

    Records of tuning queries are left out, unless `folder` is the one that holds them.
    """
    records, problems = [], []
    for path in sorted(folder.rglob("*.json")):
        if TUNING_RUNS in path.relative_to(folder).parts:
            continue
        try:
            data = json.loads(path.read_bytes())
            if not isinstance(data, dict) or "schema_version" not in data:
                continue
            if data["schema_version"] != SCHEMA_VERSION:
                problems.append(
                    f"{path}: schema version {data['schema_version']}, this attrbench reads {SCHEMA_VERSION}"
                )
                continue
            records.append(Record.model_validate(data))
        except (OSError, ValueError, ValidationError) as error:
            problems.append(f"{path}: not a readable record ({type(error).__name__})")
    return records, problems
