"""Computation of methods' features on the tiny task of the conformance checks, by the code of real runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from attrbench.conformance.toy_task import OpenToy, ToyOptions, ToyTask
from attrbench.contracts.feature import FeatureRequest, Index, QueryFeatures, TrainFeatures
from attrbench.contracts.gradient_source import GradientSource, with_sources
from attrbench.contracts.method import Context, Method, Scorer
from attrbench.contracts.options import Spec
from attrbench.contracts.task import Workspace
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.devices import torch_device
from attrbench.evaluation.execute import Progress, compute
from attrbench.evaluation.feature_reader import FeatureReader
from attrbench.evaluation.jobs import TaskReference, use_world
from attrbench.evaluation.plan import make_plan
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import MethodRequest, TaskRequest
from attrbench.evaluation.world import TaskWorld
from attrbench.executors.inline import InlineExecutor, InlineOptions
from attrbench.plugins.registry import Registry

QuerySet = Literal["generated", "train"]
Change = Callable[[GradientSource], GradientSource]


@dataclass(frozen=True)
class Features:
    """The computed inputs of one method: training features and context to fit on, and query features to score."""

    method: Method[Any]
    train: TrainFeatures
    query: QueryFeatures
    context: Context

    def gathered(self, index: Index, name: str) -> Features:
        """Return the features with the training items reordered or selected by `index`, under another fingerprint."""
        return Features(
            self.method,
            self.train.select(index),
            self.query.against_items(index),
            replace(self.context, fingerprint=f"{self.context.fingerprint}{name}"),
        )

    def fit(self) -> Scorer:
        """Fit the method on these training features and return its scorer."""
        return self.method.fit(self.train, self.context)


@dataclass(frozen=True)
class Bench:
    """A test bench of the conformance checks: it runs methods on the tiny task and returns their features.

    Attributes:
        registry: the registry of plugins.
        folder: folder for everything that is written.
        device: torch device string.
        tasks: query set -> task.
    """

    registry: Registry
    folder: Path
    device: str = "cpu"
    tasks: dict[QuerySet, ToyTask] = field(default_factory=dict)

    def settings(self, cache: str = "cache", **changes: Any) -> RunSettings:
        """Return run settings whose cache is the subfolder `cache` of the bench's temporary folder."""
        return RunSettings(out=self.folder / "records", cache=self.folder / cache, device=self.device, **changes)

    def task(self, queries: QuerySet = "generated") -> TaskRequest:
        """Return a request for the tiny task whose queries are generated images, or the training items."""
        if queries not in self.tasks:
            self.tasks[queries] = ToyTask(ToyOptions(queries=queries))
        return TaskRequest(Spec("attrbench-check"), self.tasks[queries])

    def open(self, queries: QuerySet = "generated") -> OpenToy:
        """Return the loaded tiny task with its query images already generated."""
        self.task(queries)
        opened = self.tasks[queries].open(Workspace(self.folder / "task", torch_device(self.device)))
        assert len(opened.queries)
        return opened

    def features(
        self,
        request: MethodRequest,
        settings: RunSettings,
        queries: QuerySet = "generated",
        change: Change | None = None,
    ) -> Features:
        """Return the computed features of one method; an exception while computing them is raised.

        Args:
            request: the method.
            settings: settings of the run.
            queries: the set of queries.
            change: function applied to every gradient source before computing; None for none.
        """
        (features,) = self.features_of_many([request], settings, queries, change)
        if isinstance(features, Exception):
            raise features
        return features

    def features_of_many(
        self,
        requests: Sequence[MethodRequest],
        settings: RunSettings,
        queries: QuerySet = "generated",
        change: Change | None = None,
    ) -> list[Features | Exception]:
        """Compute features of several methods in shared passes; return, for each method, them or its exception."""
        settings.cache.mkdir(parents=True, exist_ok=True)
        reference = TaskReference.of(self.task(queries), settings)
        world = TaskWorld(ToyTask.meta, self.open(queries), settings)
        use_world(reference, world)
        changed = [request if change is None else _changed(request, change) for request in requests]
        progress = compute(make_plan(world, changed), world, reference, InlineExecutor(InlineOptions()), Silent())
        return [_read(world, progress, request) for request in requests]


def _changed(request: MethodRequest, change: Change) -> MethodRequest:
    """Return the request with a copy of the method that declares features of modified gradient sources."""
    declared = request.method.features()
    other = FeatureRequest(
        tuple(with_sources(feature, change) for feature in declared.train),
        tuple(with_sources(feature, change) for feature in declared.query),
    )
    method = copy.copy(request.method)
    vars(method)["features"] = lambda: other
    return replace(request, method=method)


def _read(world: TaskWorld, progress: Progress, request: MethodRequest) -> Features | Exception:
    try:
        computed, declared = progress.features(request.label), request.method.features()
        reader = FeatureReader(world, computed)
        context = world.context(request, reader.fingerprint, progress.plan.depth)
        train, query = reader.train(), reader.query()
        train_views = [train.views[feature] for feature in computed.train]
        query_views = [query.views[feature] for feature in computed.query]
        return Features(
            request.method,
            TrainFeatures(train.count, dict(zip(declared.train, train_views, strict=True)), lambda: train.keys),
            QueryFeatures(query.ids, dict(zip(declared.query, query_views, strict=True)), lambda: query.keys),
            context,
        )
    except Exception as error:
        return error
