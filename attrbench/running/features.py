"""Carrying out the passes of a plan, and handing each method its features."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from attrbench.errors import AttrbenchError, Unavailable, UsageError
from attrbench.features import (
    Feature,
    FeaturePlan,
    GradientProducts,
    GradientRows,
    Images,
    Outputs,
    Products,
    QueryFeatures,
    TrainFeatures,
)
from attrbench.gradients.collect import GradientPass
from attrbench.gradients.pairs import Pairs, Split
from attrbench.method import Context, Transformed
from attrbench.running.plan import Plan, PlannedPass
from attrbench.running.reporting import Reporter
from attrbench.running.settings import MAX_DEPTH, MethodRequest
from attrbench.store.claims import Claims
from attrbench.store.encoding import decode_rows
from attrbench.store.fingerprint import fingerprint
from attrbench.store.rows import StoredRows
from attrbench.store.shards import FeatureStore, Sidecar, Unit

if TYPE_CHECKING:
    from attrbench.plugins import Registry


def compute_passes(plan: Plan, registry: Registry, reporter: Reporter) -> None:
    """Computes every shard that is missing, queries first."""
    for planned in sorted(plan.passes.values(), key=lambda p: p.split):  # "query" before "train"
        try:
            _compute(plan, planned, registry, reporter)
        except (Unavailable, UsageError) as error:  # the model has not what they ask of it: the others go on
            for label in planned.methods:
                plan.give_up(label, error)


def _compute(plan: Plan, planned: PlannedPass, registry: Registry, reporter: Reporter) -> None:
    executor = registry.executor(plan.settings.executor)()
    for store in planned.stores.values():
        store.touch()  # what is planned is in use, whatever `attrbench cache gc` may want to remove meanwhile
    todo = planned.missing()
    if not todo:
        return
    with reporter.stage(f"{planned.split} gradients", len(todo)) as advance:
        queries = _Queries(plan, planned).all() if planned.split == "train" else {}
        if not planned.stores:
            return  # the methods that wanted them gave up
        with closing(Claims(plan.settings.cache / "claims" / plan.pass_fingerprint(planned)[:20])) as claims:
            work = _SharedWork(planned, _gradient_pass(plan, planned, queries), claims)
            for unit in executor.run(todo, work.try_one):
                if unit not in work.left:
                    advance()
            for _ in executor.run(work.left, work.wait_for):
                advance()


class _SharedWork:
    """The units of a pass, of which other processes may be computing some."""

    def __init__(self, planned: PlannedPass, gradient_pass: GradientPass, claims: Claims) -> None:
        self._stores = planned.stores
        self._pass = gradient_pass
        self._claims = claims
        self.left: list[Unit] = []

    def try_one(self, unit: Unit) -> None:
        """Computes the unit, unless another process is at it."""
        with self._claims.claim(unit.first, wait=False) as ours:
            if ours:
                self._pass.compute(unit, self._stores)
            else:
                self.left.append(unit)

    def wait_for(self, unit: Unit) -> None:
        """Waits for the other process, and computes what it did not."""
        with self._claims.claim(unit.first, wait=True):
            self._pass.compute(unit, self._stores)


def _gradient_pass(plan: Plan, planned: PlannedPass, queries: Mapping[GradientProducts, Transformed]) -> GradientPass:
    split = Split(planned.split, plan.items(planned.split), one_by_one=planned.split == "query")
    key = fingerprint([plan.pass_fingerprint(planned), plan.settings.engine.backend, plan.settings.device])
    memo = plan.settings.cache / "batch-sizes" / f"{key[:20]}.json"
    return GradientPass(planned.source, plan.opened.denoiser, split, plan.settings.engine, queries, memo)


class _Queries:
    """What the training gradients of a pass are multiplied with, held in memory while the training set passes by."""

    def __init__(self, plan: Plan, planned: PlannedPass) -> None:
        self._plan = plan
        self._planned = planned

    def all(self) -> dict[GradientProducts, Transformed]:
        """For each products feature that is not whole yet; a method that raises here gives up, the others go on."""
        plan, planned = self._plan, self._planned
        found: dict[GradientProducts, Transformed] = {}
        gradients: dict[str, Tensor] = {}
        for feature in [feature for feature in planned.stores if isinstance(feature, GradientProducts)]:
            if feature not in planned.stores:
                continue  # its method gave up over another feature
            if not any(planned.stores[feature].missing(unit) for unit in planned.units):
                continue
            try:
                if feature.timesteps not in gradients:
                    gradients[feature.timesteps] = self._gradients(feature.timesteps == "mean")
                found[feature] = self._transformed(feature, gradients[feature.timesteps])
            except Exception as error:
                for label in list(planned.serves[feature]):
                    plan.give_up(label, error)
        return found

    def _gradients(self, mean: bool) -> Tensor:
        """[T, m, p] whole gradients of the queries, or their means [1, m, p]."""
        plan, planned = self._plan, self._planned
        query_pass = GradientPass(
            planned.source, plan.opened.denoiser, Split("query", plan.opened.queries), plan.settings.engine
        )
        total = query_pass.gradients.total
        need = 4 * plan.query_count * (1 if mean else len(query_pass.timesteps)) * total
        free = psutil.virtual_memory().available
        if plan.opened.denoiser.device.type == "cuda":
            free = torch.cuda.mem_get_info(plan.opened.denoiser.device)[0]
        if need > 0.8 * free:
            raise AttrbenchError(
                f"the whole gradients of {plan.query_count} queries need {need / 1e9:.1f} GB of memory,"
                f" {free / 1e9:.1f} GB are free; use a sketch (v=...) or fewer queries (--limit-queries)"
            )
        return query_pass.whole(Unit(0, plan.query_count), mean)

    def _transformed(self, feature: GradientProducts, gradients: Tensor) -> Transformed:
        request = self._plan.transformer(feature)
        if request is None:
            return Transformed(gradients)
        lost = gradients.isnan().any(dim=2, keepdim=True)
        started = time.perf_counter()
        context = method_context(self._plan, request, self._planned.stores[feature].fingerprint)
        made = request.method.transform(gradients.nan_to_num(0.0), context)
        if made.gradients.shape != gradients.shape:
            raise AttrbenchError(f"its transform turned {tuple(gradients.shape)} into {tuple(made.gradients.shape)}")
        rows = made.gradients.to(gradients.dtype)
        bad = ~rows.isfinite().all(dim=2)
        if bad.any():
            raise AttrbenchError(f"its transform of query {int(bad.nonzero()[0, 1])} is not finite")
        seconds = time.perf_counter() - started - made.state_seconds
        facts = {name: value for name, value in made.facts.items() if math.isfinite(value)}
        costs = {"state_bytes": made.state_bytes, "state_seconds": made.state_seconds, "query_seconds": seconds}
        return replace(made, gradients=rows.masked_fill(lost, torch.nan), facts={**facts, **costs})


COSTS = ("state_bytes", "state_seconds", "query_seconds")
"""Facts of a transform that go to the record's storage and latency."""


def method_context(plan: Plan, request: MethodRequest, fingerprint: str, wanted: int = MAX_DEPTH) -> Context:
    """What a method may use besides the features with this fingerprint, where `wanted` items a query are looked at."""
    return Context(
        seed=plan.settings.seed,
        depth=request.method.depth(min(wanted, plan.train_count)),
        workspace=plan.settings.cache / "methods" / request.spec.name,
        fingerprint=fingerprint,
        denoiser=lambda: plan.opened.denoiser,
        training=lambda source: Pairs(
            source, plan.denoiser(source), Split("train", plan.opened.train), plan.train_count
        ),
    )


class MethodFeatures:
    """The features of one method, read back, with what they cost.

    Args:
        plan: a plan whose passes are computed.
        features: the method's declarations.
    """

    def __init__(self, plan: Plan, features: FeaturePlan) -> None:
        self._plan = plan
        self._train, self._query = features.train, features.query
        self._train_store = self._store("train", self._train)
        self._query_store = None if isinstance(self._query, GradientProducts) else self._store("query", self._query)
        self._parts = [MethodFeatures(plan, part) for part in features.parts]

    def _store(self, split: str, feature: Feature | None) -> FeatureStore | None:
        if not isinstance(feature, GradientRows | GradientProducts | Outputs):
            return None
        return self._plan.passes[split, feature.source].stores[feature]

    def _units(self, split: str) -> list[Unit]:
        feature = self._train if split == "train" else self._query
        assert isinstance(feature, GradientRows | GradientProducts | Outputs)
        return self._plan.passes[split, feature.source].units

    def _shards(self, store: FeatureStore, split: str) -> list[Unit]:
        return [shard for unit in self._units(split) for shard in store.shards(unit)]

    def _sidecars(self, store: FeatureStore, split: str) -> Iterator[Sidecar]:
        return (store.sidecar(shard) for shard in self._shards(store, split))

    @property
    def fingerprint(self) -> str:
        """Of the training features; empty where there are none."""
        own = "" if self._train_store is None else self._train_store.fingerprint
        if isinstance(self._train, Images):
            own = fingerprint([self._plan.opened.train.fingerprint, self._plan.train_count])
        return fingerprint([own, *(part.fingerprint for part in self._parts)]) if self._parts else own

    def train(self) -> TrainFeatures:
        """What `Method.fit` gets."""
        return replace(self._own_train(), parts=tuple(part.train() for part in self._parts))

    def _own_train(self) -> TrainFeatures:
        count, feature = self._plan.train_count, self._train
        if isinstance(feature, GradientRows):
            assert self._train_store is not None
            rows = StoredRows(self._train_store, count)
            return TrainFeatures(count, rows=rows, layers=self._plan.columns(feature), sizes=self._plan.sizes(feature))
        if isinstance(feature, GradientProducts):
            return TrainFeatures(count, sizes=self._plan.sizes(feature), facts=self.facts())
        if isinstance(feature, Outputs):
            return TrainFeatures(count, outputs=self._outputs("train"))
        if isinstance(feature, Images):
            return TrainFeatures(count, images=self._plan.opened.train.images[:count])
        return TrainFeatures(count)

    def _outputs(self, split: str) -> NDArray[np.float32]:
        store = self._train_store if split == "train" else self._query_store
        assert store is not None
        return np.concatenate([store.read(shard)["outputs"] for shard in self._shards(store, split)])

    def query(self) -> QueryFeatures:
        """What the scorer gets, all queries at once."""
        return replace(self._own_query(), parts=tuple(part.query() for part in self._parts))

    def _own_query(self) -> QueryFeatures:
        count = self._plan.query_count
        ids = np.arange(count)
        if isinstance(self._query, Outputs):
            return QueryFeatures(ids, outputs=self._outputs("query"))
        if isinstance(self._query, GradientRows):
            assert self._query_store is not None
            blocks = [self._query_store.read(shard) for shard in self._shards(self._query_store, "query")]
            return QueryFeatures(
                ids,
                rows=np.concatenate([decode_rows(block) for block in blocks]),
                norms=np.concatenate([block["norms"] for block in blocks]),
            )
        if isinstance(self._query, GradientProducts):
            return QueryFeatures(ids, products=self._products())
        if isinstance(self._query, Images):
            return QueryFeatures(ids, images=self._plan.opened.queries.images[:count])
        return QueryFeatures(ids)

    def _products(self) -> Products:
        assert self._train_store is not None and isinstance(self._train, GradientProducts)
        blocks = [self._train_store.read(shard) for shard in self._shards(self._train_store, "train")]
        values: NDArray[np.float32] = np.concatenate([block["products"] for block in blocks])  # [n, T, m * L]
        layers = self._plan.layers(self._train)
        if self._train.layers == "all":
            by_query = values.transpose(2, 0, 1)
        else:
            by_query = values.reshape(*values.shape[:2], -1, len(layers)).transpose(2, 0, 1, 3)
        total = sum(layer.size for layer in layers)
        return Products(
            values=np.ascontiguousarray(by_query),
            query_norms=np.nan_to_num(blocks[0]["query_norms"]),
            train_norms=np.concatenate([block["norms"] for block in blocks]),
            bytes_if_kept=4 * values.shape[0] * values.shape[1] * total,
            pass_seconds=self._seconds(self._train_store, "train"),
            facts=self.facts(),
        )

    def _seconds(self, store: FeatureStore, split: str) -> float:
        return sum(sidecar.seconds for sidecar in self._sidecars(store, split))

    def _transform_facts(self) -> dict[str, float]:
        if not isinstance(self._train, GradientProducts) or self._train_store is None:
            return {}
        return self._train_store.sidecar(self._shards(self._train_store, "train")[0]).facts

    def facts(self) -> dict[str, float]:
        """What the method's transform said of itself, its costs left out."""
        return {name: value for name, value in self._transform_facts().items() if name not in COSTS}

    def cache_seconds(self) -> float:
        """What computing the training features took; 0 where they belong to the queries or need no computing."""
        parts = sum(part.cache_seconds() for part in self._parts)
        if isinstance(self._train, GradientProducts):
            return parts + self._transform_facts().get("state_seconds", 0.0)
        return parts + (0.0 if self._train_store is None else self._seconds(self._train_store, "train"))

    def query_seconds(self) -> NDArray[np.float64]:
        """[m] what computing each query's features took."""
        own = self._own_query_seconds()
        return own + sum((part.query_seconds() for part in self._parts), start=np.zeros_like(own))

    def _own_query_seconds(self) -> NDArray[np.float64]:
        count = self._plan.query_count
        if isinstance(self._query, GradientRows | Outputs):
            assert self._query_store is not None
            return np.concatenate([sidecar.item_seconds for sidecar in self._sidecars(self._query_store, "query")])
        if isinstance(self._train, GradientProducts):
            assert self._train_store is not None
            transform = self._transform_facts().get("query_seconds", 0.0) / count
            return np.full(count, transform + self._seconds(self._train_store, "train"))
        return np.zeros(count)

    def rows_on_disk(self) -> int:
        """Bytes of the files that hold the training rows."""
        parts = sum(part.rows_on_disk() for part in self._parts)
        if not isinstance(self._train, GradientRows | Outputs) or self._train_store is None:
            return parts
        return parts + sum(sidecar.bytes for sidecar in self._sidecars(self._train_store, "train"))

    def shared_bytes(self) -> int:
        """What a new query needs besides the rows: the sketch, and what the transform was built into."""
        parts = sum(part.shared_bytes() for part in self._parts)
        sketch = self._plan.shared_bytes(self._train) if isinstance(self._train, GradientRows) else 0
        return parts + sketch + int(self._transform_facts().get("state_bytes", 0))

    def row_error(self) -> float | None:
        """Root mean square of the relative error that the rows' storage type causes; None where no rows are kept."""
        if not isinstance(self._train, GradientRows) or self._train_store is None:
            return None
        squares = [sidecar.rows * sidecar.row_error**2 for sidecar in self._sidecars(self._train_store, "train")]
        return float(np.sqrt(sum(squares) / self._plan.train_count))

    def nonfinite(self) -> list[tuple[str, int, float]]:
        """(split, item, timestep) of every NaN or infinite gradient among the features."""
        found = self._own_nonfinite() + [lost for part in self._parts for lost in part.nonfinite()]
        return list(dict.fromkeys(found))

    def _own_nonfinite(self) -> list[tuple[str, int, float]]:
        return self._lost_queries() + [
            (split, item, timestep)
            for split, store in (("train", self._train_store), ("query", self._query_store))
            if store is not None
            for sidecar in self._sidecars(store, split)
            for item, timestep in sidecar.nonfinite
        ]

    def _lost_queries(self) -> list[tuple[str, int, float]]:
        """The queries whose whole gradients were not finite: their norms are NaN beside the products."""
        if not isinstance(self._train, GradientProducts) or self._train_store is None:
            return []
        norms = self._train_store.read(self._shards(self._train_store, "train")[0])["query_norms"]
        steps = self._plan.denoiser(self._train.source).timesteps(self._train.source.grid)
        return [("query", int(query), steps[step]) for query, step in np.argwhere(np.isnan(norms))]
