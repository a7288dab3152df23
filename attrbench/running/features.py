"""Carrying out the passes of a plan, and handing each method its features."""

from __future__ import annotations

from functools import partial
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
from attrbench.store.shards import FeatureStore, StoredRows, Unit

if TYPE_CHECKING:
    from attrbench.plugins import Registry


def compute_passes(plan: Plan, registry: Registry, reporter: Reporter) -> None:
    """Computes every shard that is missing, queries first."""
    executor = registry.executor(plan.settings.executor)()
    for planned in sorted(plan.passes.values(), key=lambda p: p.split):  # "query" before "train"
        todo = planned.missing()
        if not todo:
            continue
        with reporter.stage(f"{planned.split} gradients", len(todo)) as advance:
            gradient_pass = _gradient_pass(plan, planned)
            for _ in executor.run(todo, partial(gradient_pass.compute, stores=planned.stores)):
                advance()


def _gradient_pass(plan: Plan, planned: PlannedPass) -> GradientPass:
    split = Split(planned.split, plan.items(planned.split), one_by_one=planned.split == "query")
    queries = None
    if any(isinstance(feature, GradientProducts) for feature in planned.stores):
        queries = _query_gradients(plan, planned)
    return GradientPass(planned.source, plan.opened.denoiser, split, plan.settings.engine, queries)


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

    @property
    def fingerprint(self) -> str:
        """Of the training features; empty where there are none on disk."""
        return "" if self._train_store is None else self._train_store.fingerprint

    def train(self) -> TrainFeatures:
        """What `Method.fit` gets."""
        count = self._plan.train_count
        if isinstance(self._train, GradientRows):
            assert self._train_store is not None
            return TrainFeatures(count, rows=StoredRows(self._train_store, count))
        if isinstance(self._train, Images):
            return TrainFeatures(count, images=self._plan.opened.train.images[:count])
        return TrainFeatures(count)

    def query(self) -> QueryFeatures:
        """What the scorer gets, all queries at once."""
        count = self._plan.query_count
        ids = np.arange(count)
        if isinstance(self._query, GradientRows):
            assert self._query_store is not None
            blocks = [self._query_store.read(unit) for unit in self._units("query")]
            return QueryFeatures(
                ids,
                rows=np.concatenate([block["rows"] for block in blocks]),
                norms=np.concatenate([block["norms"] for block in blocks]),
            )
        if isinstance(self._query, GradientProducts):
            return QueryFeatures(ids, products=self._products())
        if isinstance(self._query, Images):
            return QueryFeatures(ids, images=self._plan.opened.queries.images[:count])
        return QueryFeatures(ids)

    def _products(self) -> Products:
        assert self._train_store is not None and isinstance(self._train, GradientProducts)
        blocks = [self._train_store.read(unit) for unit in self._units("train")]
        values: NDArray[np.float32] = np.concatenate([block["products"] for block in blocks])  # [n, T, m]
        denoiser = self._plan.opened.denoiser
        total = sum(p.numel() for p in denoiser.attributed_parameters(self._train.source.parameters).values())
        return Products(
            values=np.ascontiguousarray(values.transpose(2, 0, 1)),
            query_norms=np.nan_to_num(blocks[0]["query_norms"]),
            train_norms=np.concatenate([block["norms"] for block in blocks]),
            bytes_if_kept=4 * values.shape[0] * values.shape[1] * total,
            pass_seconds=self._seconds(self._train_store, "train"),
        )

    def _seconds(self, store: FeatureStore, split: str) -> float:
        return sum(store.sidecar(unit).seconds for unit in self._units(split))

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
            return np.concatenate([self._query_store.sidecar(u).item_seconds for u in self._units("query")])
        if isinstance(self._train, GradientProducts):
            assert self._train_store is not None
            return np.full(count, self._seconds(self._train_store, "train"))
        return np.zeros(count)

    def rows_on_disk(self) -> int:
        """Bytes of the files that hold the training rows."""
        if not isinstance(self._train, GradientRows) or self._train_store is None:
            return 0
        return sum(self._train_store.sidecar(unit).bytes for unit in self._units("train"))

    def nonfinite(self) -> list[tuple[str, int, int]]:
        """(split, item, timestep) of every NaN or infinite gradient among the features."""
        return self._lost_queries() + [
            (split, item, timestep)
            for split, store in (("train", self._train_store), ("query", self._query_store))
            if store is not None
            for unit in self._units(split)
            for item, timestep in store.sidecar(unit).nonfinite
        ]

    def _lost_queries(self) -> list[tuple[str, int, int]]:
        """The queries whose whole gradients were not finite: their norms are NaN beside the products."""
        if not isinstance(self._train, GradientProducts) or self._train_store is None:
            return []
        norms = self._train_store.read(self._units("train")[0])["query_norms"]
        steps = self._plan.opened.denoiser.timesteps(self._train.source.grid)
        return [("query", int(query), steps[step]) for query, step in np.argwhere(np.isnan(norms))]
