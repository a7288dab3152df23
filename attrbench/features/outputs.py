"""The feature outputs: the scalar model outputs of each item, such as the loss, by forward passes only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Never

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attrbench.contracts.computation import Scope
from attrbench.contracts.feature import SplitData
from attrbench.contracts.gradient_source import Declaration, GradientSource
from attrbench.features.gradient_feature import GradientFeature
from attrbench.features.source_facts import timestep_count
from attrbench.gradients.pass_feature import BufferedRows, ParameterLayout, PassSetting, ShardContent

Outputs_ = NDArray[np.float32]


class Outputs(Declaration, GradientFeature[Outputs_, Outputs_]):
    """The feature of scalar model outputs, such as losses: [items, T], of training set and queries; 0 if not finite.

    Attributes:
        source: declaration of the output, such as the loss, and of timesteps and noise.
    """

    words: ClassVar[str] = "model outputs"
    source: GradientSource

    def summary(self) -> str:
        """Return `outputs`, which names this feature in plans."""
        return "outputs"

    def declared(self) -> dict[str, Any]:
        """Return the feature's fields as a JSON-compatible dict, part of what identifies its files."""
        return self.model_dump(mode="json")

    def sink_key(self) -> None:
        """Return None: model outputs come from the forward pass and need no gradient."""
        return

    def make_sink(self, features: Sequence[Outputs], setting: PassSetting) -> Never:
        """Raise an error: outputs come from the forward pass, so there is no gradient for a sink."""
        raise NotImplementedError("outputs need no sink")

    def width(self, setting: PassSetting) -> int:
        """Return 1: one scalar is kept for each item and timestep."""
        return 1

    def values(self, sink: Any, columns: slice, outputs: Tensor) -> Tensor:
        """Return the [B, 1] scalar model outputs of a batch, such as losses."""
        return outputs[:, None]

    def shard_content(self, rows: BufferedRows) -> ShardContent:
        """Return the arrays of a shard: the scalar model outputs, [items, T]."""
        return ShardContent({"outputs": rows.values[:, :, 0].numpy()})

    def item_bytes(self, layout: ParameterLayout, scope: Scope) -> int:
        """Return the bytes of one item's stored outputs: four for each timestep."""
        return 4 * timestep_count(self.source, scope)

    def train_view(self, data: SplitData) -> Outputs_:
        """Return the [n, T] scalar model outputs, such as losses, of the training set."""
        return data.stored.array("outputs")

    def query_view(self, data: SplitData) -> Outputs_:
        """Return the [m, T] scalar model outputs, such as losses, of the queries."""
        return data.stored.array("outputs")
