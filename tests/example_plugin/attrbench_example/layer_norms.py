"""The feature kind `LayerNorms`: how large each item's gradient is in each layer, at each timestep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attrbench.contracts.computation import Scope
from attrbench.contracts.feature import SplitData
from attrbench.contracts.gradient_source import Declaration, GradientSource, Layers
from attrbench.features.gradient_feature import GradientFeature
from attrbench.gradients.layer_blocks import LayerBlock
from attrbench.gradients.pass_feature import BufferedRows, ParameterLayout, PassSetting, ShardContent

Norms = NDArray[np.float32]


class LayerNorms(Declaration, GradientFeature[Norms, Norms]):
    """The norm of each layer's gradient: [n, T, L] of the training set, [m, T, L] of queries; 0 where not finite.

    Attributes:
        source: what decides the gradients.
        layers: what counts as a layer.
    """

    words: ClassVar[str] = "norms of layers"
    source: GradientSource
    layers: Layers = "module"

    def summary(self) -> str:
        """Return what is kept."""
        return f"gradient norms by {self.layers}"

    def declared(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return self.model_dump(mode="json")

    def item_bytes(self, layout: ParameterLayout, scope: Scope) -> int:
        """Return four bytes a layer and timestep."""
        return 4 * self.source.grid.steps * len(layout.layers(self.layers))

    def sink_key(self) -> tuple[str, str]:
        """Norms of the same layers share a sink."""
        return ("layer norms", self.layers)

    def make_sink(self, features: Sequence[LayerNorms], setting: PassSetting) -> LayerNormSink:
        """Return the sink that adds up squares."""
        return LayerNormSink(setting.layout.layers(self.layers))

    def width(self, setting: PassSetting) -> int:
        """Return the number of layers, L."""
        return len(setting.layout.layers(self.layers))

    def values(self, sink: LayerNormSink, columns: slice, outputs: Tensor) -> Tensor:
        """Return the [B, L] norms."""
        return sink.result()

    def shard_content(self, rows: BufferedRows) -> ShardContent:
        """Return the norms."""
        return ShardContent({"layer_norms": rows.values.numpy()})

    def train_view(self, data: SplitData) -> Norms:
        """Return the [n, T, L] norms."""
        return data.stored.array("layer_norms")

    def query_view(self, data: SplitData) -> Norms:
        """Return the [m, T, L] norms."""
        return data.stored.array("layer_norms")


class LayerNormSink:
    """L2 norms of each layer's gradients, accumulated in float64.

    Args:
        layers: the layers.
    """

    by_parameter = True
    held = 0

    def __init__(self, layers: Sequence[LayerBlock]) -> None:
        self._count = len(layers)
        self._layer = {offset: index for index, layer in enumerate(layers) for offset in layer.places}

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """Begin a batch of B pairs."""
        self._squares = torch.zeros(len(timesteps), self._count, dtype=torch.float64, device=device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """Take one parameter's gradients of the batch, [B, size], which begin at `offset` of the whole gradient."""
        self._squares[:, self._layer[offset]] += gradients.double().square().sum(dim=1)

    def result(self) -> Tensor:
        """Return the [B, L] norms."""
        return self._squares.sqrt()
