"""Compute gradient features: one pass of per-sample gradients over a split computes all features of one source."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attrbench.contracts.computation import Computation, Prepared, Scope, ShardWriter, SplitName, Stores, Unit, World
from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.method_results import Transformed
from attrbench.errors import AttrbenchError
from attrbench.features.source_facts import QUERY_SHARD, grid_text, source_facts
from attrbench.gradients.batching import batch_size_file, free_memory
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.gradients.pass_feature import PassFeature
from attrbench.gradients.samples import Split
from attrbench.gradients.sketching.input_projection import InputProjection
from attrbench.store.shards import units

AnyFeature = PassFeature[Any, Any]


@dataclass(frozen=True)
class PassComputation(Computation[AnyFeature]):
    """The computation of all features of one gradient source, in one pass over the training set or the queries.

    Attributes:
        source: declaration that decides the gradients.
        split: `train` or `query`.
        projection: projection of the layers' inputs with which gradients are formed; None for whole gradients.
    """

    source: GradientSource
    split: SplitName
    projection: InputProjection | None = None

    @property
    def order(self) -> int:  # type: ignore[override]
        """Return the position among the computations of a plan: queries come before the training set."""
        return 0 if self.split == "query" else 1

    @property
    def title(self) -> str:
        """Return the title for progress bars, such as `train gradients`."""
        return f"{self.split} gradients"

    def summary(self, features: Sequence[AnyFeature], scope: Scope) -> str:
        """Return one line for the plan that says which model output of which items is differentiated."""
        forward_only = all(feature.sink_key() is None for feature in features)
        text = differentiated(self.source)
        text = f"outputs{text.removeprefix('gradients')}" if forward_only else text
        text += "" if self.source.latents == "clean" else " along the sampling trajectory"
        projected = "" if self.projection is None else ", layer inputs projected"
        return f"{text} of {self.split} items at {grid_text(self.source, scope)}{projected}"

    def identity(self, scope: Scope) -> object:
        """Return what tells this pass from others, to name its locks: task, split, items, model, gradient source."""
        facts, items = source_facts(self.source, scope), scope.items_fingerprint(self.split)
        seed = [] if self.projection is None else [self.projection.seed]
        return ["pass", scope.task, self.split, items, facts["model"], self.source.model_dump(mode="json"), *seed]

    def units(self, scope: Scope) -> list[Unit]:
        """Return the item ranges to compute one at a time: 64 training items each, or 16 queries."""
        count = scope.count(self.split)
        return units(count) if self.split == "train" else units(count, QUERY_SHARD)

    def prepare(self, stores: Stores[AnyFeature], world: World) -> Prepared[AnyFeature]:
        """Return the gradient pass made ready, with the query gradients (transformed by methods) for products."""
        own = {feature: store for (feature, _), store in stores.items()}
        factors, failures = _Factors(self, own, world).all()
        computable = {feature: store for feature, store in own.items() if feature not in failures}
        alone = self.split == "query" and not world.engine.queries_together
        split = Split(self.split, world.items(self.split), one_by_one=alone)
        file = batch_size_file(world, [self.identity(world), "pass"])
        work = GradientPass(
            self.source, world.opened.denoiser, split, world.engine, factors, file, projection=self.projection
        )
        return Prepared(lambda unit: work.compute(unit, computable), failures)


def differentiated(source: GradientSource) -> str:
    """Return the text `gradients of the OUTPUT` for plans, with the checkpoint if it is not the final one."""
    text = f"gradients of the {source.output}"
    return text + ("" if source.checkpoint == "final" else f" at {source.checkpoint} weights")


@dataclass
class _Factors:
    """The whole query gradients that a pass over the training set multiplies with, held in memory meanwhile."""

    computation: PassComputation
    stores: Mapping[AnyFeature, ShardWriter]
    world: World

    def all(self) -> tuple[dict[AnyFeature, Transformed], dict[AnyFeature, Exception]]:
        """Return the query gradients for each incomplete feature of products, and an error for each that failed."""
        factors: dict[AnyFeature, Transformed] = {}
        failures: dict[AnyFeature, Exception] = {}
        gradients: dict[str, Tensor] = {}
        for feature, store in self.stores.items():
            if (which := feature.factor_timesteps) is None:
                continue
            if not any(store.lacks(unit) for unit in self.computation.units(self.world)):
                continue
            try:
                if which not in gradients:
                    gradients[which] = self._gradients(which == "mean")
                factors[feature] = self._transformed(feature, gradients[which])
            except Exception as error:  # a fault of the method, or too large: other features are still computed
                failures[feature] = error
        return factors, failures

    def _gradients(self, mean: bool) -> Tensor:
        """Return the whole query gradients [T, m, p], or their means over timesteps [1, m, p]."""
        world, source = self.world, self.computation.source
        split = Split("query", world.items("query"))
        query_pass = GradientPass(source, world.opened.denoiser, split, world.engine)
        count = world.count("query")
        need = 4 * count * (1 if mean else len(query_pass.timesteps)) * query_pass.gradients.total
        free = free_memory(world.opened.denoiser.device)
        if need > 0.8 * free:
            raise AttrbenchError(
                f"the whole gradients of {count} queries need {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are"
                " free; use a sketch (v=...) or fewer queries (--limit-queries)"
            )
        return query_pass.whole(Unit(0, count), mean)

    def _transformed(self, feature: AnyFeature, gradients: Tensor) -> Transformed:
        lost = gradients.isnan().any(dim=2, keepdim=True)
        started = time.perf_counter()
        result = self.world.transform(feature, gradients)
        if result.gradients is gradients:
            return result
        if result.gradients.shape != gradients.shape:
            raise AttrbenchError(f"its transform turned {tuple(gradients.shape)} into {tuple(result.gradients.shape)}")
        rows = result.gradients.to(gradients.dtype)
        bad = ~rows.isfinite().all(dim=2)
        if bad.any():
            raise AttrbenchError(f"its transform of query {int(bad.nonzero()[0, 1])} is not finite")
        facts = {**result.recorded(), "query_seconds": result.query_seconds(time.perf_counter() - started)}
        return replace(result, gradients=rows.masked_fill(lost, torch.nan), facts=facts)
