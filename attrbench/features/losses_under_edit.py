"""The feature of all training items' losses under edited weights, after a method changed the model for a query."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from attrbench.contracts.computation import Computation, Costs, Scope, SplitName, StoreSpec
from attrbench.contracts.feature import SplitData
from attrbench.contracts.gradient_source import GradientSource
from attrbench.features.edit_computation import STATE_COSTS, EditComputation
from attrbench.features.outputs import Outputs
from attrbench.features.source_facts import source_facts, timestep_count
from attrbench.features.views import Index

Losses = NDArray[np.float32]


class LossesUnderEdit(Outputs):
    """The losses of all training items before and after a method changed the weights for a query (`Method.edit`).

    The training set's view is [n, T]: the losses under the original weights, the same bytes as `Outputs` of the
    source. The queries' view is [m, n, T]: those under the weights that were changed for each query, on the same
    timesteps and with the same noise. Both are 0 where not finite. The price is a forward pass over the training set
    for each query, and once more the memory of the network.

    Attributes:
        source: what decides the losses: the model output, the timesteps and the noise.
        edit: names the edit (`Method.key`); whatever decides the changed weights must be in the name.
    """

    words: ClassVar[str] = "losses under edited weights"
    source: GradientSource
    edit: str

    @field_validator("source")
    @classmethod
    def _of_the_items_themselves(cls, source: GradientSource) -> GradientSource:
        if source.latents != "clean":
            raise ValueError("losses under an edit are of the items themselves: a source with latents=clean")
        return source

    @property
    def original(self) -> Outputs:
        """Return the feature of the losses under the original, unedited weights."""
        return Outputs(source=self.source)

    @property
    def calls_method(self) -> bool:
        """Return True: the method's own `edit` changes the weights."""
        return True

    def summary(self) -> str:
        """Return a few words for the plan: losses, and the method whose edit changes the weights."""
        return f"losses under the edit of {self.edit.split()[0]}"

    def computation(self, split: SplitName) -> Computation[Any] | None:
        """Return the loss pass over the training set; for the split `query`, the edits, each with a pass."""
        return self.original.computation("train") if split == "train" else EditComputation(self.source, self.edit)

    def store(self, split: SplitName, scope: Scope) -> StoreSpec:
        """Return the storage of the original losses; for the split `query`, a shard of [n, T] losses for each query."""
        if split == "train":
            return self.original.store("train", scope)
        description: dict[str, Any] = {
            **source_facts(self.source, scope),
            "kind": type(self).__name__,
            "feature": self.declared(),
            "train": [scope.items_fingerprint("train"), scope.count("train")],
            "seed": scope.seed,
        }
        size = 4 * scope.count("train") * timestep_count(self.source, scope)
        return StoreSpec(description, size, 1, self.source.row_key, self.words, self.text)

    def query_view(self, data: SplitData) -> Losses:
        """Return the [m, n, T] losses of n training items under the weights edited for each of m queries."""
        return data.stored.array("losses")

    def query_costs(self, data: SplitData) -> Costs:
        """Return each query's seconds (edit, then losses of all training items); state the edits share counts apart."""
        facts = data.stored.facts()
        own = {name: value for name, value in facts.items() if name not in STATE_COSTS}
        costs = super().query_costs(data)
        return replace(
            costs,
            cache_seconds=facts.get("state_seconds", 0.0),
            shared_bytes=int(facts.get("state_bytes", 0)),
            facts=own,
        )

    def against_items(self, view: Losses, items: Index) -> Losses:
        """Return the losses under edits of the training items at `items` ([k] indices) only, [m, k, T]."""
        return view[:, items]

    def depends_on_items(self) -> bool:
        """Return True: the queries' data consists of losses of the training items."""
        return True

    def tells_items_as_queries(self) -> bool:
        """Return False: losses under the original weights don't give those under an edit for an item."""
        return False

    def items_as_queries(self, train: Losses, query: Losses) -> Losses:
        """Return `query` unchanged: the caller has computed it with the training items as the queries."""
        return query
