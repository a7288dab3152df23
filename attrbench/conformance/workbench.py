"""Features of a method on the check's task, by the engine that real runs use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrbench.conformance.feature_views import Index, gathered_products, gathered_train
from attrbench.conformance.toy_task import OpenToy, ToyOptions, ToyTask
from attrbench.contracts.feature import QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, Method, Scorer
from attrbench.contracts.options import Spec
from attrbench.contracts.task import Workspace
from attrbench.evaluation.execute import compute_passes, method_context
from attrbench.evaluation.feature_reader import MethodFeatures
from attrbench.evaluation.plan import Plan
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import MethodRequest, RunSettings, TaskRequest
from attrbench.evaluation.task_run import torch_device

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry

QuerySet = Literal["generated", "train"]


@dataclass(frozen=True)
class Features:
    """What one method gets: for `fit`, and for the scorer."""

    method: Method[Any]
    train: TrainFeatures
    query: QueryFeatures
    context: Context

    def gathered(self, index: Index, name: str) -> Features:
        """The same with the training items at `index`; `name` stands for them in the context's fingerprint."""
        return Features(
            self.method,
            gathered_train(self.train, index),
            gathered_products(self.query, index),
            replace(self.context, fingerprint=f"{self.context.fingerprint}{name}"),
        )

    def fit(self) -> Scorer:
        """What the method makes of them."""
        return self.method.fit(self.train, self.context)


@dataclass(frozen=True)
class Bench:
    """Where methods are tried out.

    Attributes:
        registry: the plugins.
        folder: for everything that is written.
        device: torch device string.
        tasks: the task with each set of queries.
    """

    registry: Registry
    folder: Path
    device: str = "cpu"
    tasks: dict[QuerySet, ToyTask] = field(default_factory=dict)

    def settings(self, cache: str = "cache", **changes: Any) -> RunSettings:
        """Settings of a run whose features lie in a folder of this name."""
        return RunSettings(out=self.folder / "records", cache=self.folder / cache, device=self.device, **changes)

    def task(self, queries: QuerySet = "generated") -> TaskRequest:
        """The task."""
        if queries not in self.tasks:
            self.tasks[queries] = ToyTask(ToyOptions(queries=queries))
        return TaskRequest(Spec("attrbench-check"), self.tasks[queries])

    def open(self, queries: QuerySet = "generated") -> OpenToy:
        """The task, open and whole."""
        self.task(queries)
        opened = self.tasks[queries].open(Workspace(self.folder / "task", torch_device(self.device)))
        assert len(opened.queries)
        return opened

    def features(self, request: MethodRequest, settings: RunSettings, queries: QuerySet = "generated") -> Features:
        """The features of one method; raises whatever it raised on the way."""
        (found,) = self.features_of_many([request], settings, queries)
        if isinstance(found, Exception):
            raise found
        return found

    def features_of_many(
        self, requests: Sequence[MethodRequest], settings: RunSettings, queries: QuerySet = "generated"
    ) -> list[Features | Exception]:
        """The features of several methods out of as few passes as they need, or what each raised."""
        plan = Plan(ToyTask.meta, self.open(queries), requests, settings)
        settings.cache.mkdir(parents=True, exist_ok=True)
        compute_passes(plan, self.registry, Silent())
        return [_read(plan, request) for request in requests]


def _read(plan: Plan, request: MethodRequest) -> Features | Exception:
    try:
        read = MethodFeatures(plan, plan.features(request))
        context = method_context(plan, request, read.fingerprint)
        return Features(request.method, read.train(), read.query(), context)
    except Exception as error:
        return error
