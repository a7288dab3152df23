"""Pool the records of one method on several models into one: the values of all queries, and the costs of all models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from attrbench.contracts.record import Coverage, MetricResult, Record
from attrbench.contracts.record_costs import Latency, Quantiles, Storage
from attrbench.metrics.intervals import mean_interval

WORST_FIRST = ("failed", "partial", "limited", "complete")


def pooled_fields(records: Sequence[Record], seed: int) -> dict[str, Any]:
    """Return the fields of the record that stands for a method's records on several models, one record a model.

    Args:
        records: in the order of the models, at least one.
        seed: of the intervals.
    """
    status = min((record.status for record in records), key=WORST_FIRST.index)
    common: dict[str, Any] = {"status": status, "coverage": _coverage([record.coverage for record in records])}
    peaks = {name: _largest(getattr(each, name) for each in records) for name in PEAKS}
    if status == "failed":
        failed = next(record for record in records if record.status == "failed")
        return common | peaks | {"error": f"{failed.task.label}: {failed.error}"}
    return common | {
        **peaks,
        "metrics": _metrics(records, seed),
        "metrics_asked": records[0].metrics_asked,
        "query_groups": [group for record in records for group in record.query_groups],
        "ranking": [ids for record in records for ids in record.ranking],
        "notes": list(dict.fromkeys(note for record in records for note in record.notes)),
        "facts": {"models": float(len(records))},
        "storage": _storage([record.storage for record in records if record.storage is not None]),
        "latency": _latency([record.latency for record in records if record.latency is not None]),
    }


PEAKS = ("peak_memory_bytes", "peak_device_bytes")


def _coverage(parts: Sequence[Coverage]) -> Coverage:
    """Return the coverage of all models: the training set once, the queries of each; lost queries by their new ids."""
    lost, before = [], 0
    for part in parts:
        for split, item, timestep in part.nonfinite:
            lost.append((split, item + (before if split == "query" else 0), timestep))
        before += part.queries
    return Coverage(
        train_items=parts[0].train_items,
        train_total=parts[0].train_total,
        queries=before,
        queries_total=sum(part.queries_total for part in parts),
        nonfinite=list(dict.fromkeys(lost)),
    )


def _metrics(records: Sequence[Record], seed: int) -> list[MetricResult]:
    """Return the metrics that all models have, over all queries; those of retrained models are left out."""
    pooled = []
    for first in records[0].metrics:
        parts = [part for record in records if (part := record.metric(first.name)) is not None]
        if len(parts) == len(records) and first.metric in records[0].metrics_asked:
            pooled.append(_metric(parts, seed))
    return pooled


def _metric(parts: Sequence[MetricResult], seed: int) -> MetricResult:
    values = [value for part in parts for value in part.per_query]
    low, high = mean_interval(values, seed) or (None, None)
    return parts[0].model_copy(
        update={
            "value": float(np.mean(values)),
            "low": low,
            "high": high,
            "ceiling": _mean(parts, "ceiling"),
            "random": _mean(parts, "random"),
            "per_query": values,
        }
    )


def _mean(parts: Sequence[MetricResult], name: str) -> float | None:
    """Return the mean over queries of a number that each model's result has for its queries; None if one lacks it."""
    numbers = [getattr(part, name) for part in parts]
    if any(number is None for number in numbers):
        return None
    return float(np.average(numbers, weights=[len(part.per_query) for part in parts]))


def _storage(parts: Sequence[Storage]) -> Storage:
    """Return the bytes that are kept for all models together."""
    kept = [part.rows_if_kept for part in parts if part.rows_if_kept is not None]
    errors = [part.row_error for part in parts if part.row_error is not None]
    return Storage(
        rows=sum(part.rows for part in parts),
        rows_on_disk=sum(part.rows_on_disk for part in parts),
        shared=sum(part.shared for part in parts),
        index=sum(part.index for part in parts),
        rows_if_kept=sum(kept) if len(kept) == len(parts) else None,
        row_error=math.sqrt(float(np.mean(np.square(errors)))) if len(errors) == len(parts) else None,
    )


def _latency(parts: Sequence[Latency]) -> Latency:
    """Return the times of all models: sums of what is done once; of a query the median and the worst over models."""

    def over_models(times: Sequence[Quantiles]) -> Quantiles:
        return Quantiles(p50=float(np.median([each.p50 for each in times])), p95=max(each.p95 for each in times))

    return Latency(
        cache=sum(part.cache for part in parts),
        fit=sum(part.fit for part in parts),
        gradient=over_models([part.gradient for part in parts]),
        score=over_models([part.score for part in parts]),
        query=over_models([part.query for part in parts]),
    )


def _largest(numbers: Iterable[int | None]) -> int | None:
    return max((number for number in numbers if number is not None), default=None)
