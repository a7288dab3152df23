"""The base of features that a gradient pass computes: they know their pass, and what decides their numbers."""

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
    """A feature of per-sample gradients; a kind of one's own derives from it (see docs: features).

    Besides what `PassFeature` asks for, a kind says how many bytes an item takes. Its fields must say all that decides
    its numbers: they are its identity on disk.

    Attributes:
        words: what the kind is called.
    """

    words: ClassVar[str] = "gradient feature"

    @abstractmethod
    def item_bytes(self, layout: ParameterLayout, scope: Scope) -> int:
        """Return the bytes that one item takes."""

    @abstractmethod
    def declared(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""

    @property
    def text(self) -> str:
        """Summary, timesteps, and what is not at its default."""
        return f"{self.summary()}, {timesteps_text(self.source)}"

    def computation(self, split: SplitName) -> Computation[Any] | None:
        """Return the pass over the items of the split."""
        return PassComputation(self.source, split)

    def store(self, split: SplitName, scope: Scope) -> StoreSpec:
        """Return the description of model, items, timesteps and fields."""
        description = {
            **source_facts(self.source, split, scope),
            "kind": type(self).__name__,
            "feature": self.declared(),
        }
        size = self.item_bytes(layout_of(self.source, scope), scope)
        items = shard_items(size, SHARD_ITEMS if split == "train" else QUERY_SHARD)
        return StoreSpec(description, size, items, self.words, self.text)


def timesteps_text(source: GradientSource) -> str:
    """Return the number of timesteps, with the grid and the noise where they are not the default ones."""
    default = GradientSource()
    parts = [f"T={source.grid.steps}" + ("" if source.grid.kind == default.grid.kind else f" {source.grid.kind}")]
    names = [name for name in type(source).model_fields if name not in ("grid", "output")]
    parts += [f"{name}={getattr(source, name)}" for name in names if getattr(source, name) != getattr(default, name)]
    return ", ".join(parts)
