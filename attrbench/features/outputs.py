"""Outputs: the scalars themselves that a source differentiates, such as the loss; a forward pass is enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Never

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attrbench.contracts.feature import Scope, SplitData
from attrbench.contracts.gradient_source import Declaration, GradientSource
from attrbench.features.gradient_feature import GradientFeature
from attrbench.gradients.pass_feature import BufferedRows, ParameterLayout, PassSetting, ShardContent

Outputs_ = NDArray[np.float32]


class Outputs(Declaration, GradientFeature[Outputs_, Outputs_]):
    """The scalars that the source differentiates: [n, T] of the training set, [m, T] of queries; 0 where not finite.

    Attributes:
        source: what decides them.
    """

    words: ClassVar[str] = "model outputs"
    source: GradientSource

    def summary(self) -> str:
        """Return what they are."""
        return "outputs"

    def declared(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return self.model_dump(mode="json")

    def sink_key(self) -> None:
        """No gradient is needed."""
        return

    def make_sink(self, features: Sequence[Outputs], setting: PassSetting) -> Never:
        """There is none."""
        raise NotImplementedError("outputs need no sink")

    def width(self, setting: PassSetting) -> int:
        """Return one number of an item and timestep."""
        return 1

    def values(self, sink: Any, columns: slice, outputs: Tensor) -> Tensor:
        """Return the [B, 1] outputs."""
        return outputs[:, None]

    def shard_content(self, rows: BufferedRows) -> ShardContent:
        """Return the outputs."""
        return ShardContent({"outputs": rows.values[:, :, 0].numpy()})

    def item_bytes(self, layout: ParameterLayout, scope: Scope) -> int:
        """Return four bytes a timestep."""
        return 4 * self.source.grid.steps

    def train_view(self, data: SplitData) -> Outputs_:
        """Return the [n, T] outputs."""
        return data.stored.array("outputs")

    def query_view(self, data: SplitData) -> Outputs_:
        """Return the [m, T] outputs."""
        return data.stored.array("outputs")
