"""Carrying out the passes of a plan, and handing each method its features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from attrbench.errors import AttrbenchError
from attrbench.features import (
    Feature,
    GradientProducts,
    GradientRows,
    Images,
    Products,
    QueryFeatures,
    TrainFeatures,
)
from attrbench.gradients.collect import GradientPass, Split
from attrbench.running.plan import Plan, PlannedPass
from attrbench.running.reporting import Reporter
from attrbench.store.claims import Claims
from attrbench.store.encoding import decode_rows
from attrbench.store.fingerprint import fingerprint
from attrbench.store.rows import StoredRows
from attrbench.store.shards import FeatureStore, Sidecar, Unit

if TYPE_CHECKING:
    from attrbench.plugins import Registry


def compute_passes(plan: Plan, registry: Registry, reporter: Reporter) -> None:
    """Computes every shard that is missing, queries first."""
    executor = registry.executor(plan.settings.executor)()
    for planned in sorted(plan.passes.values(), key=lambda p: p.split):  # "query" before "train"
        for store in planned.stores.values():
            store.touch()  # what is planned is in use, whatever `attrbench cache gc` may want to remove meanwhile
        todo = planned.missing()
        if not todo:
            continue
        with reporter.stage(f"{planned.split} gradients", len(todo)) as advance:
            claims = Claims(plan.settings.cache / "claims" / plan.pass_fingerprint(planned)[:20])
            work = _SharedWork(planned, _gradient_pass(plan, planned), claims)
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


def _gradient_pass(plan: Plan, planned: PlannedPass) -> GradientPass:
    split = Split(planned.split, plan.items(planned.split), one_by_one=planned.split == "query")
    queries = None
    if any(isinstance(feature, GradientProducts) for feature in planned.stores):
        queries = _query_gradients(plan, planned)
    key = fingerprint([plan.pass_fingerprint(planned), plan.settings.engine.backend, plan.settings.device])
    memo = plan.settings.cache / "batch-sizes" / f"{key[:20]}.json"
    return GradientPass(planned.source, plan.opened.denoiser, split, plan.settings.engine, queries, memo)


def _query_gradients(plan: Plan, planned: PlannedPass) -> torch.Tensor:
    """[T, m, p] whole gradients of the queries, held in memory while the training set passes by."""
    query_pass = GradientPass(
        planned.source, plan.opened.denoiser, Split("query", plan.opened.queries), plan.settings.engine
    )
    total = query_pass.gradients.total
    need = 4 * plan.query_count * len(query_pass.timesteps) * total
    free = psutil.virtual_memory().available
    if plan.opened.denoiser.device.type == "cuda":
        free = torch.cuda.mem_get_info(plan.opened.denoiser.device)[0]
    if need > 0.8 * free:
        names = ", ".join(planned.methods)
        raise AttrbenchError(
            f"{names}: the whole gradients of {plan.query_count} queries need {need / 1e9:.1f} GB of memory,"
            f" {free / 1e9:.1f} GB are free; use a sketch (v=...) or fewer queries (--limit-queries)"
        )
    return query_pass.whole(Unit(0, plan.query_count))


class MethodFeatures:
    """The features of one method, read back, with what they cost.

    Args:
        plan: a plan whose passes are computed.
        train, query: the method's declarations.
    """

    def __init__(self, plan: Plan, train: Feature | None, query: Feature | None) -> None:
        self._plan = plan
        self._train_store = self._store("train", train)
        self._query_store = None if isinstance(query, GradientProducts) else self._store("query", query)
        self._train, self._query = train, query

    def _store(self, split: str, feature: Feature | None) -> FeatureStore | None:
        if not isinstance(feature, GradientRows | GradientProducts):
            return None
        return self._plan.passes[split, feature.source].stores[feature]

    def _units(self, split: str) -> list[Unit]:
        feature = self._train if split == "train" else self._query
        assert isinstance(feature, GradientRows | GradientProducts)
        return self._plan.passes[split, feature.source].units

    def _shards(self, store: FeatureStore, split: str) -> list[Unit]:
        return [shard for unit in self._units(split) for shard in store.shards(unit)]

    def _sidecars(self, store: FeatureStore, split: str) -> Iterator[Sidecar]:
        return (store.sidecar(shard) for shard in self._shards(store, split))

    @property
    def fingerprint(self) -> str:
        """Of the training features; empty where there are none on disk."""
        return "" if self._train_store is None else self._train_store.fingerprint

    def train(self) -> TrainFeatures:
        """What `Method.fit` gets."""
        count = self._plan.train_count
        if isinstance(self._train, GradientRows):
            assert self._train_store is not None
            rows = StoredRows(self._train_store, count)
            return TrainFeatures(count, rows=rows, layers=self._plan.columns(self._train))
        if isinstance(self._train, Images):
            return TrainFeatures(count, images=self._plan.opened.train.images[:count])
        return TrainFeatures(count)

    def query(self) -> QueryFeatures:
        """What the scorer gets, all queries at once."""
        count = self._plan.query_count
        ids = np.arange(count)
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
        )

    def _seconds(self, store: FeatureStore, split: str) -> float:
        return sum(sidecar.seconds for sidecar in self._sidecars(store, split))

    def cache_seconds(self) -> float:
        """What computing the training features took; 0 where they belong to the queries or need no computing."""
        if not isinstance(self._train, GradientRows) or self._train_store is None:
            return 0.0
        return self._seconds(self._train_store, "train")

    def query_seconds(self) -> NDArray[np.float64]:
        """[m] what computing each query's features took."""
        count = self._plan.query_count
        if isinstance(self._query, GradientRows):
            assert self._query_store is not None
            return np.concatenate([sidecar.item_seconds for sidecar in self._sidecars(self._query_store, "query")])
        if isinstance(self._train, GradientProducts):
            assert self._train_store is not None
            return np.full(count, self._seconds(self._train_store, "train"))
        return np.zeros(count)

    def rows_on_disk(self) -> int:
        """Bytes of the files that hold the training rows."""
        if not isinstance(self._train, GradientRows) or self._train_store is None:
            return 0
        return sum(sidecar.bytes for sidecar in self._sidecars(self._train_store, "train"))

    def shared_bytes(self) -> int:
        """What the sketch needs besides the rows, to sketch a new query."""
        return self._plan.shared_bytes(self._train) if isinstance(self._train, GradientRows) else 0

    def row_error(self) -> float | None:
        """Root mean square of the relative error that the rows' storage type causes; None where no rows are kept."""
        if not isinstance(self._train, GradientRows) or self._train_store is None:
            return None
        squares = [sidecar.rows * sidecar.row_error**2 for sidecar in self._sidecars(self._train_store, "train")]
        return float(np.sqrt(sum(squares) / self._plan.train_count))

    def nonfinite(self) -> list[tuple[str, int, int]]:
        """(split, item, timestep) of every NaN or infinite gradient among the features."""
        return self._lost_queries() + [
            (split, item, timestep)
            for split, store in (("train", self._train_store), ("query", self._query_store))
            if store is not None
            for sidecar in self._sidecars(store, split)
            for item, timestep in sidecar.nonfinite
        ]

    def _lost_queries(self) -> list[tuple[str, int, int]]:
        """The queries whose whole gradients were not finite: their norms are NaN beside the products."""
        if not isinstance(self._train, GradientProducts) or self._train_store is None:
            return []
        norms = self._train_store.read(self._shards(self._train_store, "train")[0])["query_norms"]
        steps = self._plan.opened.denoiser.timesteps(self._train.source.grid)
        return [("query", int(query), steps[step]) for query, step in np.argwhere(np.isnan(norms))]
