"""Read the computed features of a method from the store, with their costs."""

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
    """A reader of the computed features of one method.

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
        """Return what `Method.fit` gets."""
        views = {feature: feature.train_view(self._data(feature, "train")) for feature in self.request.train}
        return TrainFeatures(self.world.count("train"), views)

    def query(self) -> QueryFeatures:
        """Return what the scorer gets, all queries at once."""
        views = {feature: feature.query_view(self._data(feature, "query")) for feature in self.request.query}
        return QueryFeatures(np.arange(self.world.count("query")), views)

    @cached_property
    def costs(self) -> list[Costs]:
        """Costs of each feature, those of the training set first."""
        train = [feature.train_costs(self._data(feature, "train")) for feature in self.request.train]
        return train + [feature.query_costs(self._data(feature, "query")) for feature in self.request.query]

    def cache_seconds(self) -> float:
        """Return what computing the training features took, once."""
        return sum(cost.cache_seconds for cost in self.costs)

    def query_seconds(self) -> NDArray[np.float64]:
        """Return what computing each query's features took, [m]."""
        seconds = np.zeros(self.world.count("query"))
        for cost in self.costs:
            seconds = seconds + cost.query_seconds
        return seconds

    def rows_on_disk(self) -> int:
        """Return the bytes of the files that hold the training rows."""
        return sum(cost.rows_on_disk for cost in self.costs)

    def shared_bytes(self) -> int:
        """Return what a new query needs besides the rows."""
        return sum(cost.shared_bytes for cost in self.costs)

    def row_error(self) -> float | None:
        """Return the largest error of rows that their storage type causes; None where no rows are kept."""
        return max((cost.row_error for cost in self.costs if cost.row_error is not None), default=None)

    def nonfinite(self) -> list[tuple[str, int, float]]:
        """Return (split, item, timestep) of every NaN or infinite gradient among the features."""
        return list(dict.fromkeys(lost for cost in self.costs for lost in cost.nonfinite))

    def facts(self) -> dict[str, float]:
        """Return what transforms said of themselves."""
        return {name: value for cost in self.costs for name, value in cost.facts.items()}
