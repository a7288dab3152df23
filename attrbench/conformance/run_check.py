"""The conformance check that a run on a task writes a record: a small method with gradients, on a few items."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from attrbench.conformance.check_report import Finding, failed, passed
from attrbench.conformance.checked_task import TaskSubject
from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.gradient_source import GradientSource, Sketch, TimestepGrid
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options, Spec
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import MethodRequest
from attrbench.evaluation.task_run import TaskRun
from attrbench.features.gradient_rows import GradientRows

TRAIN, QUERIES = 4, 2
ROWS = GradientRows(source=GradientSource(grid=TimestepGrid(steps=2)), sketch=Sketch(length=64))


class FewGradients(Method[Options]):
    """The method of the check: the sum of cosines of sketched loss gradients at two timesteps."""

    name = "attrbench-check"
    summary = "cosines of gradients, for the check of tasks"
    Options = Options

    def features(self) -> FeatureRequest:
        """Return short gradient rows of training items and queries."""
        return FeatureRequest.both(ROWS)

    def fit(self, train: TrainFeatures, context: Context) -> FewGradientsScorer:
        """Return the scorer over the rows of the training items."""
        rows = train[ROWS]
        return FewGradientsScorer(rows.take(np.arange(rows.count)).reshape(rows.count, -1))


class FewGradientsScorer(ExhaustiveScorer):
    """The scorer of `FewGradients`, over [n, T v] rows in memory."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._rows = rows

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] sums of cosines."""
        asked: NDArray[np.float32] = query[ROWS].rows.reshape(len(query.ids), -1)
        return asked @ self._rows.T

    def size(self) -> StateSize:
        """Return the bytes of the rows."""
        return StateSize(rows=self._rows.nbytes)


def run(subject: TaskSubject) -> Finding:
    """Check that a run of a method with gradients on a few items of the task writes a record without gaps."""
    method = MethodRequest(Spec(FewGradients.name), FewGradients(Options()))
    with TemporaryDirectory(prefix="attrbench-check-", ignore_cleanup_errors=True) as folder:
        settings = RunSettings(
            out=Path(folder) / "records",
            cache=Path(folder) / "cache",
            read_caches=(subject.workspace.cache,),
            device=str(subject.workspace.device),
            limit_train=TRAIN,
            limit_queries=QUERIES,
            retrain=False,
        )
        request = replace(subject.request, task=subject.fresh())
        (result,) = TaskRun(subject.registry, request, [method], settings, Silent()).results()
    record = result.record
    if record.status not in ("complete", "limited"):
        return failed(
            "run",
            f"the record is {record.status}: {record.error or '; '.join(record.notes)}",
            "mend what the other checks name first; then see `attrbench run --limit-train 4 --debug`",
        )
    lost = len(record.coverage.nonfinite)
    told = f"{record.coverage.train_items} training items ranked for {record.coverage.queries} queries by gradients"
    return passed("run", told + (f", {lost} of which are not finite" if lost else ""))
