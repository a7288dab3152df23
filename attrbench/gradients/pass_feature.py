"""The contract of features that come out of a gradient pass: which sink they need, and what becomes of its results."""

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
from attrbench.contracts.method import Transformed
from attrbench.gradients.layer_blocks import LayerBlock, layer_blocks
from attrbench.gradients.sinks import Sink


@dataclass(frozen=True)
class ParameterLayout:
    """The attributed parameters in the order of the whole gradient.

    Attributes:
        sizes: number of entries of each parameter.
    """

    sizes: Mapping[str, int]

    @property
    def total(self) -> int:
        """Number of attributed entries, p."""
        return sum(self.sizes.values())

    def layers(self, cut: Layers) -> list[LayerBlock]:
        """Return the layers of the whole gradient, cut as asked."""
        offsets, offset = {}, 0
        for name, size in self.sizes.items():
            offsets[name] = offset
            offset += size
        return layer_blocks(offsets, self.sizes, cut)


@dataclass(frozen=True)
class PassSetting:
    """What a feature must know of the pass that computes it.

    Attributes:
        layout: the attributed parameters.
        steps: number of timesteps, T.
        factors: for features that multiply with the queries' gradients: what to multiply with.
    """

    layout: ParameterLayout
    steps: int
    factors: Mapping[PassFeature[Any, Any], Transformed] = field(default_factory=dict)


@dataclass(frozen=True)
class BufferedRows:
    """The rows of a shard when its last item is through.

    Attributes:
        values: [items, T, width], or [items, 1, width] for means; zeros where a gradient was not finite.
        norms: [items, T] norms of the whole gradients (magnitudes of the outputs, where none is taken).
        setting: of the pass.
    """

    values: Tensor
    norms: Tensor
    setting: PassSetting


@dataclass(frozen=True)
class ShardContent:
    """What a shard keeps.

    Attributes:
        arrays: by name, with leading dimension [items].
        row_error: root mean square of the relative error that the storage type causes.
        facts: numbers that belong to the whole shard.
    """

    arrays: Mapping[str, NDArray[np.generic]]
    row_error: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)


class PassFeature(Feature[TrainViewT, QueryViewT]):
    """A feature of per-sample gradients. Features of one source come out of one pass, and share sinks where they can.

    Attributes:
        source: what decides the gradients.
    """

    source: GradientSource

    @property
    def factor_timesteps(self) -> Literal["stack", "mean"] | None:
        """For features that multiply with the queries' gradients: those of each timestep, or their mean."""
        return None

    @abstractmethod
    def sink_key(self) -> Hashable | None:
        """Return what features that share a sink have in common; None where no gradient is needed."""

    @abstractmethod
    def make_sink(self, features: Sequence[Self], setting: PassSetting) -> Sink:
        """Return one sink for all features of one key, this one among them."""

    @property
    def sums_suffice(self) -> bool:
        """Whether the sum over the timesteps is all that the sink must see of an item."""
        return False

    @property
    def is_mean(self) -> bool:
        """Whether one row an item is kept, the mean over the timesteps."""
        return False

    @property
    def unit_norm(self) -> bool:
        """Whether each timestep's row is divided by the norm of its whole gradient."""
        return False

    @abstractmethod
    def width(self, setting: PassSetting) -> int:
        """Return the numbers of an item and timestep."""

    @abstractmethod
    def values(self, sink: Any, columns: slice, outputs: Tensor) -> Tensor:
        """Return the [B, width] values of a batch.

        Args:
            sink: as `make_sink` made it, fed with the batch; None where no gradient is needed.
            columns: this feature's share, where the widths of all features of the sink lie side by side.
            outputs: [B] model outputs.
        """

    @abstractmethod
    def shard_content(self, rows: BufferedRows) -> ShardContent:
        """Return what is written of a shard."""
