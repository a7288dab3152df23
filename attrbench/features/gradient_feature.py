"""The base class of features that a pass of per-sample gradients computes: their pass and their identity on disk."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from attrbench.contracts.computation import Computation, Scope, SplitName, StoreSpec
from attrbench.contracts.feature import QueryViewT, TrainViewT
from attrbench.contracts.gradient_source import GradientSource
from attrbench.features.pass_computation import PassComputation
from attrbench.features.source_facts import QUERY_SHARD, layout_of, source_facts
from attrbench.gradients.pass_feature import ParameterLayout, PassFeature
from attrbench.store.shards import SHARD_ITEMS, shard_items


class GradientFeature(PassFeature[TrainViewT, QueryViewT]):
    """Base class of features computed from per-sample gradients, also for kinds defined by plugins.

    Besides the methods of `PassFeature`, a kind defines the bytes of an item. Its fields must contain everything that
    decides its numbers, because they are its identity on disk.

    Attributes:
        words: name of the kind, for `attrbench cache ls`.
    """

    words: ClassVar[str] = "gradient feature"

    @abstractmethod
    def item_bytes(self, layout: ParameterLayout, scope: Scope) -> int:
        """Return the bytes that the stored data of one item takes."""

    @abstractmethod
    def declared(self) -> dict[str, Any]:
        """Return the feature's fields as a JSON-compatible dict, part of what identifies its files."""

    @property
    def text(self) -> str:
        """Return one line with the feature's summary, its timesteps, and settings that differ from their defaults."""
        return f"{self.summary()}, {timesteps_text(self.source)}"

    def computation(self, split: SplitName) -> Computation[Any] | None:
        """Return the gradient pass over the items of the split, which computes this feature."""
        return PassComputation(self.source, split, self.projection)

    def store(self, split: SplitName, scope: Scope) -> StoreSpec:
        """Return how the feature is stored, described by model, timesteps and fields; rows are found by their item."""
        description = {
            **source_facts(self.source, scope),
            "kind": type(self).__name__,
            "feature": self.declared(),
        }
        size = self.item_bytes(layout_of(self.source, scope), scope)
        items = shard_items(size, SHARD_ITEMS if split == "train" else QUERY_SHARD)
        return StoreSpec(description, size, items, self.source.row_key, self.words, self.text)


def timesteps_text(source: GradientSource) -> str:
    """Return a gradient source as text: its number of timesteps, and all settings that differ from their defaults."""
    default = GradientSource()
    steps, kind = source.grid.steps or "all", source.grid.kind
    parts = [f"T={steps}" + ("" if kind == default.grid.kind else f" {kind}")]
    names = [name for name in type(source).model_fields if name not in ("grid", "output")]
    parts += [f"{name}={getattr(source, name)}" for name in names if getattr(source, name) != getattr(default, name)]
    return ", ".join(parts)
