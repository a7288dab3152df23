"""The Gram matrix of the training items' whole mean gradients, and their products with the queries'."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from attrbench.contracts.computation import Costs, Scope, SplitName, StoreSpec
from attrbench.contracts.feature import SplitData
from attrbench.contracts.gradient_source import Declaration, GradientSource
from attrbench.features.gradient_feature import timesteps_text
from attrbench.features.gram_computation import GramComputation, GramFeature, GramOf
from attrbench.features.source_facts import layout_of, sampling_facts, source_facts
from attrbench.features.views import Index, TrainGram

Cross = NDArray[np.float64]


class GradientGram(Declaration, GramFeature[TrainGram, Cross]):
    """Inner products of the training items' whole mean gradients with each other, and with those of the queries.

    What kernel methods without a sketch need, with no gradient ever stored: they are added up in float64 layer by
    layer, over as many layers at a time as the memory holds of all items' gradients. The price is a pass over the
    training set for each such stretch of layers, and all of them again for each new set of queries.

    The training set's view is `TrainGram`, the queries' their products with the training items, [m, n] float64.

    Attributes:
        source: what decides the gradients.
        queries: what decides those of the queries, where it is something else.
        timesteps: `mean` of the raw gradients over the timesteps; `mean-normalized`, of gradients that are scaled to
            unit norm first.
    """

    source: GradientSource
    queries: GradientSource | None = None
    timesteps: Literal["mean", "mean-normalized"] = "mean"

    @model_validator(mode="after")
    def _of_the_same_parameters(self) -> GradientGram:
        if self.queries is not None and self.queries.parameters != self.source.parameters:
            raise ValueError("the gradients of queries and training items must be of the same parameters")
        return self

    @property
    def query_source(self) -> GradientSource:
        """What decides the queries' gradients."""
        return self.queries or self.source

    def summary(self) -> str:
        """Return what is kept."""
        return f"Gram matrix of whole gradients ({self.timesteps} over timesteps)"

    def computation(self, split: SplitName) -> GramComputation:
        """Return the computation of the matrix; features that differ in the queries alone share it."""
        return GramComputation(GramOf(self.source, self.timesteps))

    def store(self, split: SplitName, scope: Scope) -> StoreSpec:
        """Return the description of the matrix, or of the products with the queries; either is a single shard."""
        fields = self.model_dump(mode="json", exclude={"queries"} if split == "train" else None)
        description: dict[str, Any] = {
            **source_facts(self.source, split, scope),
            "kind": type(self).__name__,
            "feature": fields,
            "count": scope.count("train"),
        }
        if split == "query":
            model = scope.model(self.query_source.checkpoint)
            description |= {"train": scope.items_fingerprint("train"), "queries": scope.count("query")}
            description |= {"query_model": model.fingerprint}
            description |= {"query_timesteps": list(model.timesteps(self.query_source.grid))}
            description |= sampling_facts(self.query_source, scope)
        count = scope.count(split)
        kind = "Gram matrix" if split == "train" else "products of whole gradients"
        size = 8 * scope.count("train")
        return StoreSpec(description, size, 1 << (count - 1).bit_length(), kind, timesteps_text(self.source))

    def train_view(self, data: SplitData) -> TrainGram:
        """Return the matrix."""
        return TrainGram(data.stored.array("gram"), {"": layout_of(self.source, data.scope).total})

    def query_view(self, data: SplitData) -> Cross:
        """Return the [m, n] products."""
        return data.stored.array("cross")

    def train_costs(self, data: SplitData) -> Costs:
        """Return the passes over the training set; no row is kept."""
        costs = super().train_costs(data)
        return Costs(cache_seconds=costs.cache_seconds, nonfinite=costs.nonfinite)

    def against_items(self, view: Cross, items: Index) -> Cross:
        """Return the products with some training items."""
        return view[:, items]

    def depends_on_items(self) -> bool:
        """The products are with the training items."""
        return True

    def items_as_queries(self, train: TrainGram, query: Cross) -> Cross:
        """Return the matrix itself."""
        return train.matrix
