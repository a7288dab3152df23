"""Reading the features of a method back, with what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import (
    Feature,
    FeaturePlan,
    GradientGram,
    GradientProducts,
    GradientRows,
    Images,
    Outputs,
    Products,
    QueryFeatures,
    TrainFeatures,
)
from attrbench.evaluation.plan import Plan
from attrbench.store.encoding import decode_rows
from attrbench.store.fingerprint import fingerprint
from attrbench.store.shards import FeatureStore, Sidecar, Unit
from attrbench.store.stored_rows import StoredRows

COSTS = ("state_bytes", "state_seconds", "query_seconds")
"""Facts of a transform that go to the record's storage and latency."""


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
        self._query_store = self._store("query", self._query)
        self._parts = [MethodFeatures(plan, part) for part in features.parts]

    def _store(self, split: str, feature: Feature | None) -> FeatureStore | None:
        if isinstance(feature, GradientGram):
            gram = self._plan.gram(feature)
            return gram.store if split == "train" else gram.crosses[feature]
        if isinstance(feature, GradientProducts) and split == "query":
            return None
        if not isinstance(feature, GradientRows | GradientProducts | Outputs):
            return None
        return self._plan.passes[split, feature.source].stores[feature]

    def _units(self, split: str) -> list[Unit]:
        feature = self._train if split == "train" else self._query
        if isinstance(feature, GradientGram):
            gram = self._plan.gram(feature)
            return [gram.whole if split == "train" else gram.asked]
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
        if isinstance(feature, GradientGram):
            return TrainFeatures(count, gram=self._array("train", "gram"), sizes=self._plan.sizes(feature))
        if isinstance(feature, Outputs):
            return TrainFeatures(count, outputs=self._array("train", "outputs"))
        if isinstance(feature, Images):
            return TrainFeatures(count, images=self._plan.opened.train.images[:count])
        return TrainFeatures(count)

    def _array(self, split: str, name: str) -> NDArray[Any]:
        """An array of all items, joined from the shards."""
        store = self._train_store if split == "train" else self._query_store
        assert store is not None
        return np.concatenate([store.read(shard)[name] for shard in self._shards(store, split)])

    def query(self) -> QueryFeatures:
        """What the scorer gets, all queries at once."""
        return replace(self._own_query(), parts=tuple(part.query() for part in self._parts))

    def _own_query(self) -> QueryFeatures:
        count = self._plan.query_count
        ids = np.arange(count)
        if isinstance(self._query, Outputs):
            return QueryFeatures(ids, outputs=self._array("query", "outputs"))
        if isinstance(self._query, GradientGram):
            return QueryFeatures(ids, cross=self._array("query", "cross"))
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
        if isinstance(self._query, GradientRows | GradientGram | Outputs):
            assert self._query_store is not None  # a query's share holds the sweeps over the training set, for a Gram
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
