"""The feature Gram matrix [n, n] of unsketched mean training gradients, with inner products [m, n] for queries."""

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
    """The feature Gram matrix [n, n] of unsketched mean training gradients, with the queries' products [m, n].

    For kernel methods without a sketch. No gradient is stored: inner products are summed in float64 over groups of
    parameters, each as large as the memory holds of all items' gradients. This takes a pass over the training set for
    each group, and again for each new set of queries.

    The training set's view is `TrainGram`, that of the queries the [m, n] float64 inner products.

    Attributes:
        source: declaration that decides the gradients.
        queries: declaration for the gradients of the queries; None for `source`.
        timesteps: `mean` averages the raw gradients over timesteps; `mean-normalized` scales each to unit norm first.
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
        """Return the gradient source of the queries; by default that of the training items."""
        return self.queries or self.source

    def summary(self) -> str:
        """Return a few words for the plan: a Gram matrix, and how gradients are averaged over timesteps."""
        return f"Gram matrix of whole gradients ({self.timesteps} over timesteps)"

    def computation(self, split: SplitName) -> GramComputation:
        """Return the computation of the Gram matrix, shared by features that differ in `queries` only."""
        return GramComputation(GramOf(self.source, self.timesteps))

    def store(self, split: SplitName, scope: Scope) -> StoreSpec:
        """Return the storage of the Gram matrix, or of its products with the queries, as a single shard."""
        fields = self.model_dump(mode="json", exclude={"queries"} if split == "train" else None)
        description: dict[str, Any] = {
            **source_facts(self.source, scope),
            "items": scope.items_fingerprint(split),
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
        return StoreSpec(description, size, 1 << (count - 1).bit_length(), "set", kind, timesteps_text(self.source))

    def train_view(self, data: SplitData) -> TrainGram:
        """Return the [n, n] inner products of the training items' gradients, as `Method.fit` gets them."""
        return TrainGram(data.stored.array("gram"), {"": layout_of(self.source, data.scope).total})

    def query_view(self, data: SplitData) -> Cross:
        """Return the [m, n] inner products of the queries' and the training items' gradients."""
        return data.stored.array("cross")

    def train_costs(self, data: SplitData) -> Costs:
        """Return the seconds of the passes over the training set and non-finite gradients; no rows are stored."""
        costs = super().train_costs(data)
        return Costs(cache_seconds=costs.cache_seconds, nonfinite=costs.nonfinite)

    def against_items(self, view: Cross, items: Index) -> Cross:
        """Return the queries' inner products [m, k] with the training items at `items` ([k] indices)."""
        return view[:, items]

    def depends_on_items(self) -> bool:
        """Return True: the queries' data consists of inner products with the training items."""
        return True

    def items_as_queries(self, train: TrainGram, query: Cross) -> Cross:
        """Return the [n, n] Gram matrix, which is the products of training items used as queries."""
        return train.matrix
