"""The parts of a record on what a run cost: bytes, seconds, and the machine that it ran on."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
"""A number of items or bytes."""


BUSY = 0.25
"""Share of a machine's cores that other processes may keep busy before a run's times are marked."""


class RecordPart(BaseModel):
    """The base of the parts of a record: unknown fields are refused, and nothing is changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Storage(RecordPart):
    """The bytes that a method keeps to answer a new query: rows of training items, shared state, search index.

    Attributes:
        rows: what is kept for the training items, as numbers.
        rows_on_disk: the files that hold them, with headers; 0 where the method's features are not stored.
        shared: state kept once (a projection, a permutation, factors).
        index: a search index.
        rows_if_kept: for methods that keep no rows: what keeping them would take.
        row_error: root mean square of the relative error of a row that its storage type causes.
    """

    rows: Count
    rows_on_disk: Count
    shared: Count
    index: Count
    rows_if_kept: Count | None = None
    row_error: float | None = None

    @property
    def total(self) -> int:
        """Return the bytes needed to answer a new query: rows, shared state and index together."""
        return self.rows + self.shared + self.index


class Quantiles(RecordPart):
    """The median and the 95th percentile over queries of a time in seconds."""

    p50: float
    p95: float


class Latency(RecordPart):
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

    @property
    def finite(self) -> bool:
        """Return whether all times are numbers, neither NaN nor infinite."""
        quantiles = (number for each in (self.gradient, self.score, self.query) for number in (each.p50, each.p95))
        return all(map(math.isfinite, (self.cache, self.fit, *quantiles)))


class Hardware(RecordPart):
    """The machine of a run: device, processor, cores, memory, and how busy others kept it.

    Attributes:
        hardware_class: device, and for the CPU the number of cores and the processor.
        threads: of torch, on the CPU.
        load: mean number of cores that other processes kept busy while the run lasted; None where it is not known, as
            in records of version 0.1.
    """

    hardware_class: str
    device: str
    processor: str
    cores: int
    threads: int
    memory_bytes: int
    load: float | None = None

    @property
    def times_class(self) -> str:
        """Return the class within which times are compared: `hardware_class`, and threads where not one a core."""
        if self.device != "cpu" or self.threads == self.cores:
            return self.hardware_class
        return f"{self.hardware_class}, {self.threads} thread{'s' * (self.threads > 1)}"

    @property
    def is_busy(self) -> bool:
        """Return whether other processes kept more than a quarter of the cores busy, so that times are too long."""
        return self.load is not None and self.load > BUSY * self.cores
