"""Read a method's computed features from the cache for fitting and scoring, with their costs for the record."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.computation import Costs, SplitName, Unit
from attrbench.contracts.feature import Feature, FeatureRequest, QueryFeatures, SplitData, TrainFeatures
from attrbench.evaluation.world import TaskWorld
from attrbench.store.fingerprint import fingerprint
from attrbench.store.stored_shards import StoredShards

AnyFeature = Feature[Any, Any]


@dataclass
class FeatureReader:
    """A reader of one method's computed features (of training set and queries) and of their costs.

    Attributes:
        world: the open task.
        request: what the method declared.
    """

    world: TaskWorld
    request: FeatureRequest

    def _data(self, feature: AnyFeature, wanted: SplitName) -> SplitData:
        world, split = self.world, feature.stored_in(wanted)
        count = world.count(split)
        shards = None
        if feature.computation(split) is not None:
            shards = StoredShards(world.store(feature, split), Unit(0, count))
        return SplitData(world.items(split), count, shards, world)

    @property
    def fingerprint(self) -> str:
        """Hash of the training features; empty for a method without any."""
        keys = [self.world.store(feature, "train").fingerprint for feature in self.request.train]
        return fingerprint(keys) if keys else ""

    def train(self) -> TrainFeatures:
        """Return the training set's features in the form that `Method.fit` takes."""
        views = {feature: feature.train_view(self._data(feature, "train")) for feature in self.request.train}
        count = self.world.count("train")
        return TrainFeatures(count, views, lambda: self.world.items("train").keys[:count])

    def query(self) -> QueryFeatures:
        """Return the features of all queries in the form that the method's scorer takes."""
        views = {feature: feature.query_view(self._data(feature, "query")) for feature in self.request.query}
        count = self.world.count("query")
        return QueryFeatures(np.arange(count), views, lambda: self.world.items("query").keys[:count])

    @cached_property
    def costs(self) -> list[Costs]:
        """Return the costs (seconds, bytes) of each feature, those of the training set first."""
        train = [feature.train_costs(self._data(feature, "train")) for feature in self.request.train]
        return train + [feature.query_costs(self._data(feature, "query")) for feature in self.request.query]

    def cache_seconds(self) -> float:
        """Return the seconds that computing the training features took, a one-time cost."""
        return sum(cost.cache_seconds for cost in self.costs)

    def query_seconds(self) -> NDArray[np.float64]:
        """Return the seconds that computing each query's features took, [m]."""
        seconds = np.zeros(self.world.count("query"))
        for cost in self.costs:
            seconds = seconds + cost.query_seconds
        return seconds

    def rows_on_disk(self) -> int:
        """Return the bytes of the files that hold the training items' feature rows."""
        return sum(cost.rows_on_disk for cost in self.costs)

    def shared_bytes(self) -> int:
        """Return the bytes that a new query needs besides the training rows, such as a dense projection."""
        return sum(cost.shared_bytes for cost in self.costs)

    def row_error(self) -> float | None:
        """Return the largest relative error that the storage type causes in stored rows; None if none are stored."""
        return max((cost.row_error for cost in self.costs if cost.row_error is not None), default=None)

    def nonfinite(self) -> list[tuple[str, int, float]]:
        """Return (split, item, timestep) of every NaN or infinite gradient among the features."""
        return list(dict.fromkeys(lost for cost in self.costs for lost in cost.nonfinite))

    def facts(self) -> dict[str, float]:
        """Return the numbers that the features' computations report for the record, such as a transform's damping."""
        return {name: value for cost in self.costs for name, value in cost.facts.items()}
