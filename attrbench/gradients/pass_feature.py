"""The contract of features that a gradient pass computes: the sink that receives gradients, and what is stored."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attrbench.contracts.feature import Feature, QueryViewT, TrainViewT
from attrbench.contracts.gradient_source import GradientSource, Layers
from attrbench.contracts.method_results import Transformed
from attrbench.gradients.layer_blocks import LayerBlock, layer_blocks
from attrbench.gradients.sinks import Sink
from attrbench.gradients.sketching.input_projection import InputProjection


@dataclass(frozen=True)
class ParameterLayout:
    """The sizes of the differentiated parameters, in the order in which the whole gradient concatenates them.

    Attributes:
        sizes: name -> number of entries of the parameter.
    """

    sizes: Mapping[str, int]

    @property
    def total(self) -> int:
        """Return p, the length of the whole gradient."""
        return sum(self.sizes.values())

    def layers(self, cut: Layers) -> list[LayerBlock]:
        """Return the blocks into which the whole gradient is cut: one block, one a module, or one a parameter."""
        offsets, offset = {}, 0
        for name, size in self.sizes.items():
            offsets[name] = offset
            offset += size
        return layer_blocks(offsets, self.sizes, cut)


@dataclass(frozen=True)
class PassSetting:
    """Properties of a gradient pass that its features need: parameter sizes, timesteps and query gradients.

    Attributes:
        layout: sizes of the attributed parameters.
        steps: number of timesteps, T.
        factors: for each feature of inner products with queries, the query gradients [T or 1, m, p].
    """

    layout: ParameterLayout
    steps: int
    factors: Mapping[PassFeature[Any, Any], Transformed] = field(default_factory=dict)


@dataclass(frozen=True)
class BufferedRows:
    """The complete rows and gradient norms of one shard, before they are encoded for storage.

    Attributes:
        values: [items, T, width], or [items, 1, width] for means over timesteps; zero where a gradient was not finite.
        norms: [items, T] norms of the whole gradients; the model outputs for features that need no gradient.
        setting: properties of the pass.
    """

    values: Tensor
    norms: Tensor
    setting: PassSetting


@dataclass(frozen=True)
class ShardContent:
    """The content of one shard file: arrays by name, the error due to the storage type, and facts.

    Attributes:
        arrays: name -> array with leading dimension [items].
        row_error: root mean square of the rows' relative error due to the storage type.
        facts: named numbers that belong to the whole shard.
        shared: names of arrays that belong to the whole shard, without the leading dimension [items].
    """

    arrays: Mapping[str, NDArray[np.generic]]
    row_error: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)
    shared: Sequence[str] = ()


class PassFeature(Feature[TrainViewT, QueryViewT]):
    """Base class of features computed by a pass of per-sample gradients; one pass computes all of one source.

    Attributes:
        source: declaration that decides the gradients.
    """

    source: GradientSource

    @property
    def factor_timesteps(self) -> Literal["stack", "mean"] | None:
        """Return the query gradients to multiply with: `stack` (each timestep), `mean`, or None for none."""
        return None

    @property
    def projection(self) -> InputProjection | None:
        """Return the projection of the layers' inputs with which gradients are formed; None for whole gradients."""
        return None

    @abstractmethod
    def sink_key(self) -> Hashable | None:
        """Return a key by which features share a sink (receiver of gradients); None if no gradient is needed."""

    @abstractmethod
    def make_sink(self, features: Sequence[Self], setting: PassSetting) -> Sink:
        """Return one sink (receiver of gradients in the backward pass) for all `features` with this one's key."""

    @property
    def sums_suffice(self) -> bool:
        """Return whether the sink only needs the sum of an item's gradients over timesteps."""
        return False

    @property
    def is_mean(self) -> bool:
        """Return whether a single row is kept for each item, the mean over timesteps."""
        return False

    @property
    def unit_norm(self) -> bool:
        """Return whether each timestep's row is divided by the norm of its whole gradient."""
        return False

    @abstractmethod
    def width(self, setting: PassSetting) -> int:
        """Return how many numbers are kept for each item and timestep."""

    @abstractmethod
    def values(self, sink: Any, columns: slice, outputs: Tensor) -> Tensor:
        """Return the [B, width] numbers of this feature for a batch, such as sketches, from its sink.

        Args:
            sink: as `make_sink` made it, fed with the batch; None where no gradient is needed.
            columns: this feature's share, where the widths of all features of the sink lie side by side.
            outputs: [B] model outputs.
        """

    @abstractmethod
    def shard_content(self, rows: BufferedRows) -> ShardContent:
        """Return the arrays to write as a shard file, made of its complete rows."""
