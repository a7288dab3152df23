"""What the core registers about itself: metrics, executor and ground truths, through the hooks that plugins use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrbench.contracts.executor import Executor, InlineExecutor
from attrbench.contracts.ground_truth import GroundTruth
from attrbench.contracts.metric import Metric
from attrbench.ground_truth.linear_datamodeling import LinearDatamodeling
from attrbench.ground_truth.removal import Removal
from attrbench.metrics.retrieval import AnnRecall, AveragePrecision, DetectionRate, Recall
from attrbench.plugins.hookspecs import hookimpl


@hookimpl
def register_metrics(register: Callable[[type[Metric]], None]) -> None:
    """The metrics of DMin's tables and their uncapped relatives."""
    for metric in (DetectionRate, Recall, AveragePrecision, AnnRecall):
        register(metric)


@hookimpl
def register_executors(register: Callable[[type[Executor]], None]) -> None:
    """Shard after shard in this process."""
    register(InlineExecutor)


@hookimpl
def register_ground_truths(register: Callable[[type[GroundTruth[Any]]], None]) -> None:
    """The linear datamodeling score, and removal."""
    for truth in (LinearDatamodeling, Removal):
        register(truth)
