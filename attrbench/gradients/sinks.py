"""What becomes of per-sample gradients inside the backward pass: norms, sketches, whole rows (and see `products`).

A consumer takes each parameter's gradients of a batch as they come, and is asked for its result when the batch
is through. No consumer keeps a gradient unless keeping it is its purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from attrbench.gradients.layer_blocks import LayerBlock
from attrbench.gradients.sketching.reference import SketchForm, sketch_accumulator
from attrbench.models.noise import seed_of


class Sink(Protocol):
    """Takes the gradients of a batch of B pairs, parameter by parameter.

    Attributes:
        by_parameter: whether it must get each parameter on its own; else it takes any stretch of the whole gradient.
        held: numbers that it keeps for each pair, where they are more than a sketch.
    """

    by_parameter: bool
    held: int

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """A batch begins; `items` is [B] items, `timesteps` [B] indices into the grid."""

    def add(self, offset: int, gradients: Tensor) -> None:
        """Coordinates offset .. offset + w of the batch's gradients, [B, w], in `dtype`."""


class NormSink:
    """L2 norms of whole gradients, accumulated in float64."""

    by_parameter = False
    held = 0

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """See `Sink`."""
        self._squares = torch.zeros(len(timesteps), dtype=torch.float64, device=device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Sink`."""
        norms = torch.linalg.vector_norm(gradients, dim=1).double()
        if not norms.isfinite().all():  # float32 squares overflow beyond 1e19; only then is it worth a second look
            largest = gradients.abs().amax(dim=1).double()
            scaled = torch.linalg.vector_norm(gradients / largest.clamp_min(1)[:, None], dim=1)
            norms = norms.where(norms.isfinite(), scaled * largest)
        self._squares += norms.square()

    def result(self) -> Tensor:
        """[B] float64 norms."""
        return self._squares.sqrt()


class SketchSink:
    """Sketches of several lengths under one seed, of each layer on its own.

    Args:
        layers: the layers; a single one for the whole gradient.
        apart: whether layers are kept apart: then one of fewer than v parameters is sketched to as many numbers as
            it has, which loses nothing.
        form: of the sketch.
        lengths: v.
        seed: of the sketch; layers have seeds of their own, so that their errors are independent.
    """

    held = 0

    def __init__(
        self, layers: Sequence[LayerBlock], apart: bool, form: SketchForm, lengths: Sequence[int], seed: int
    ) -> None:
        self._layers = layers
        self._apart = self.by_parameter = apart
        self._places = {offset: (i, start) for i, layer in enumerate(layers) for offset, start in layer.places.items()}
        self._accumulators = [
            sketch_accumulator(
                form,
                sorted({self._length(length, layer) for length in lengths}),
                seed_of("layer", seed, index) if apart else seed,
                layer.size,
            )
            for index, layer in enumerate(layers)
        ]

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """See `Sink`."""
        for accumulator in self._accumulators:
            accumulator.start(len(timesteps), dtype, device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Sink`."""
        layer, start = self._places[offset]
        self._accumulators[layer].add(start, gradients)

    def result(self, length: int) -> Tensor:
        """[B, width] sketches, layer by layer."""
        pairs = zip(self._layers, self._accumulators, strict=True)
        parts = [accumulator.result(self._length(length, layer)) for layer, accumulator in pairs]
        return torch.cat(parts, dim=1) if self._apart else parts[0]

    def _length(self, length: int, layer: LayerBlock) -> int:
        return min(length, layer.size) if self._apart else length


class WholeGradientSink:
    """The gradients themselves, [B, p].

    Args:
        total: number of parameters, p.
    """

    by_parameter = False

    def __init__(self, total: int) -> None:
        self._total = self.held = total

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """See `Sink`."""
        self._rows = torch.zeros(len(timesteps), self._total, dtype=dtype, device=device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Sink`."""
        self._rows[:, offset : offset + gradients.shape[1]] = gradients

    def result(self) -> Tensor:
        """[B, p] gradients."""
        return self._rows


class TimestepSumSink:
    """Adds up the gradients of each item before other consumers see them, for means over timesteps.

    All the rest of the work then takes a T-th. The sum stands in the place of the item's first pair, the others have
    zeros.

    Args:
        inner: linear consumers that treat all timesteps alike.
    """

    def __init__(self, inner: Sequence[Sink]) -> None:
        self._inner = inner
        self.by_parameter = any(consumer.by_parameter for consumer in inner)
        self.held = sum(consumer.held for consumer in inner)

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """See `Sink`."""
        distinct, self._group = torch.unique(items, return_inverse=True)
        self._first = torch.stack([(self._group == group).nonzero()[0, 0] for group in range(len(distinct))])
        each = len(items) // len(distinct)
        self._runs = each if torch.equal(items, distinct.repeat(each)) else 0
        self._group = self._group.to(device)
        for consumer in self._inner:
            consumer.start(distinct, torch.zeros_like(distinct), dtype, device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Sink`."""
        if self._runs:  # timestep by timestep, of the same items: several times faster than adding by index
            sums = gradients.unflatten(0, (self._runs, -1)).sum(0)
        else:
            sums = gradients.new_zeros(len(self._first), gradients.shape[1])
            sums.index_add_(0, self._group, gradients)
        for consumer in self._inner:
            consumer.add(offset, sums)

    def spread(self, sums: Tensor) -> Tensor:
        """[B, width] from an inner consumer's result."""
        rows = sums.new_zeros(len(self._group), sums.shape[1])
        rows[self._first.to(sums.device)] = sums
        return rows


class GatheringSink:
    """Gathers the gradients of a small batch and hands them on in one piece.

    A query on its own is a handful of pairs, in which most of the time would go into calls parameter by parameter.

    Args:
        total: number of parameters, p.
        inner: who gets them.
        offsets: of the parameters in the concatenated gradient, in its order.
    """

    LARGEST = 2**23
    """Numbers, B * p, beyond which copying costs more than it saves."""
    by_parameter = True
    held = 0

    def __init__(self, total: int, inner: Sequence[Sink], offsets: Sequence[int]) -> None:
        self._total = total
        self._inner = inner
        self._ends = list(pairwise([*offsets, total]))

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """See `Sink`."""
        self._rows = torch.zeros(len(timesteps), self._total, dtype=dtype, device=device)
        for consumer in self._inner:
            consumer.start(items, timesteps, dtype, device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Sink`."""
        self._rows[:, offset : offset + gradients.shape[1]] = gradients

    def hand_on(self) -> None:
        """Gives all of it to the others."""
        for consumer in self._inner:
            for first, last in self._ends if consumer.by_parameter else [(0, self._total)]:
                consumer.add(first, self._rows[:, first:last])
