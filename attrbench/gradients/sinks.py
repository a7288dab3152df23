"""Sinks: receive per-sample gradients during the backward pass and reduce them to norms, sketches or whole rows.

A sink receives each parameter's gradients of a batch as soon as they are formed, and returns its result after the
batch. No sink keeps a gradient unless keeping it is its purpose. Inner products are in
`attrbench.gradients.inner_products`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from attrbench.contracts.gradient_source import SketchForm
from attrbench.gradients.layer_blocks import LayerBlock
from attrbench.gradients.sketching.forms import sketch_accumulator
from attrbench.models.noise import seed_of


class Sink(Protocol):
    """A receiver of the per-sample gradients of a batch of B noisy samples, parameter by parameter.

    Attributes:
        by_parameter: whether `add` must be called for each parameter separately; otherwise any contiguous columns of
            the concatenated gradient may be added at once.
        held: numbers that the sink holds for each sample, if more than a sketch; for memory estimates.
    """

    by_parameter: bool
    held: int

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """Reset the sink for a new batch with item indices [B] and timestep indices [B] (into the grid)."""

    def add(self, offset: int, gradients: Tensor) -> None:
        """Receive columns offset .. offset + w of the batch's concatenated gradients: [B, w], in `dtype`."""


class NormSink:
    """A sink that computes the L2 norm of each sample's whole gradient, accumulated in float64."""

    by_parameter = False
    held = 0

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """Reset the sums of squares to zero for a new batch of samples."""
        self._squares = torch.zeros(len(timesteps), dtype=torch.float64, device=device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """Add the squares of some columns of the gradients to each sample's sum, safe from overflow."""
        norms = torch.linalg.vector_norm(gradients, dim=1).double()
        if not norms.isfinite().all():  # float32 squares overflow beyond 1e19; only then is it worth a second look
            largest = gradients.abs().amax(dim=1).double()
            scaled = torch.linalg.vector_norm(gradients / largest.clamp_min(1)[:, None], dim=1)
            norms = norms.where(norms.isfinite(), scaled * largest)
        self._squares += norms.square()

    def result(self) -> Tensor:
        """Return the [B] float64 norms of the samples' whole gradients."""
        return self._squares.sqrt()


class SketchSink:
    """A sink that sketches the gradients (random linear compression) to several lengths v under one seed.

    Args:
        layers: blocks of parameters that are sketched separately; a single block for the whole gradient.
        apart: whether layers are kept apart: a layer with fewer than v parameters is then sketched to as many numbers
            as it has parameters, which is lossless.
        form: kind of random projection.
        lengths: sketch lengths v.
        seed: seed of the sketch; with `apart`, each layer has a seed derived from it, so that errors are independent.
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
        """Reset the sketches to zero for a new batch of samples."""
        for accumulator in self._accumulators:
            accumulator.start(len(timesteps), dtype, device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """Add some columns of the gradients to the sketches of their layer."""
        layer, start = self._places[offset]
        self._accumulators[layer].add(start, gradients)

    def result(self, length: int) -> Tensor:
        """Return the [B, width] sketches of length `length`, the layers' sketches concatenated."""
        pairs = zip(self._layers, self._accumulators, strict=True)
        parts = [accumulator.result(self._length(length, layer)) for layer, accumulator in pairs]
        return torch.cat(parts, dim=1) if self._apart else parts[0]

    def _length(self, length: int, layer: LayerBlock) -> int:
        return min(length, layer.size) if self._apart else length


class WholeGradientSink:
    """A sink that keeps the whole gradients, [B, p].

    Args:
        total: number of parameters, p.
    """

    by_parameter = False

    def __init__(self, total: int) -> None:
        self._total = self.held = total

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate [B, p] zeros for the whole gradients of a new batch."""
        self._rows = torch.zeros(len(timesteps), self._total, dtype=dtype, device=device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """Store some columns of the gradients in the [B, p] rows."""
        self._rows[:, offset : offset + gradients.shape[1]] = gradients

    def result(self) -> Tensor:
        """Return the [B, p] whole gradients of the batch."""
        return self._rows


class TimestepSumSink:
    """A sink that sums each item's gradients over timesteps and passes the sums to inner sinks, for means.

    The inner sinks then do a T-th of the work. In `spread`, the row of an item's first sample in the batch holds the
    sum and its other rows are zero.

    Args:
        inner: sinks that are linear in the gradient and do not depend on the timestep.
    """

    def __init__(self, inner: Sequence[Sink]) -> None:
        self._inner = inner
        self.by_parameter = any(sink.by_parameter for sink in inner)
        self.held = sum(sink.held for sink in inner)

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """Group the samples of a new batch by item, and start the inner sinks with one row for each item."""
        distinct, self._group = torch.unique(items, return_inverse=True)
        self._first = torch.stack([(self._group == group).nonzero()[0, 0] for group in range(len(distinct))])
        each = len(items) // len(distinct)
        self._runs = each if torch.equal(items, distinct.repeat(each)) else 0
        self._group = self._group.to(device)
        for sink in self._inner:
            sink.start(distinct, torch.zeros_like(distinct), dtype, device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """Sum some columns of the gradients over each item's timesteps, and pass the sums to the inner sinks."""
        if self._runs:  # timestep by timestep, of the same items: several times faster than adding by index
            sums = gradients.unflatten(0, (self._runs, -1)).sum(0)
        else:
            sums = gradients.new_zeros(len(self._first), gradients.shape[1])
            sums.index_add_(0, self._group, gradients)
        for sink in self._inner:
            sink.add(offset, sums)

    def spread(self, sums: Tensor) -> Tensor:
        """Return an inner sink's rows per item as [B, width]: at each item's first sample, zero at its others."""
        rows = sums.new_zeros(len(self._group), sums.shape[1])
        rows[self._first.to(sums.device)] = sums
        return rows


class GatheringSink:
    """A sink that concatenates the gradients of a small batch and passes them to inner sinks at once.

    A single query is a batch of a few samples, for which calls parameter by parameter would take most of the time.

    Args:
        total: number of parameters, p.
        inner: sinks that receive the concatenated gradients.
        offsets: offset of each parameter in the concatenated gradient, ascending.
    """

    LARGEST = 2**23
    """Size B * p beyond which copying costs more than it saves."""
    by_parameter = True
    held = 0

    def __init__(self, total: int, inner: Sequence[Sink], offsets: Sequence[int]) -> None:
        self._total = total
        self._inner = inner
        self._ends = list(pairwise([*offsets, total]))

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate [B, p] zeros for the gradients of a new batch, and start the inner sinks."""
        self._rows = torch.zeros(len(timesteps), self._total, dtype=dtype, device=device)
        for sink in self._inner:
            sink.start(items, timesteps, dtype, device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """Store some columns of the gradients, to be passed on later with all others."""
        self._rows[:, offset : offset + gradients.shape[1]] = gradients

    def hand_on(self) -> None:
        """Pass the gathered gradients of the batch to the inner sinks."""
        for sink in self._inner:
            for first, last in self._ends if sink.by_parameter else [(0, self._total)]:
                sink.add(first, self._rows[:, first:last])
