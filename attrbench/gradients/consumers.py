"""What becomes of per-sample gradients inside the backward pass: norms, sketches, whole rows, inner products.

A consumer takes each parameter's gradients of a batch as they come, and is asked for its result when the batch
is through. No consumer keeps a gradient unless keeping it is its purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from attrbench.diffusion.noise import seed_of
from attrbench.gradients.layer_blocks import LayerBlock
from attrbench.gradients.reference_sketches import SketchForm, sketch_accumulator


class Consumer(Protocol):
    """Takes the gradients of a batch of B pairs, parameter by parameter."""

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """A batch begins; `items` is [B] items, `timesteps` [B] indices into the grid."""

    def add(self, offset: int, gradients: Tensor) -> None:
        """Coordinates offset .. offset + w of the batch's gradients, [B, w], in `dtype`."""


class Norms:
    """L2 norms of whole gradients, accumulated in float64."""

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """See `Consumer`."""
        self._squares = torch.zeros(len(timesteps), dtype=torch.float64, device=device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Consumer`."""
        norms = torch.linalg.vector_norm(gradients, dim=1).double()
        if not norms.isfinite().all():  # float32 squares overflow beyond 1e19; only then is it worth a second look
            largest = gradients.abs().amax(dim=1).double()
            scaled = torch.linalg.vector_norm(gradients / largest.clamp_min(1)[:, None], dim=1)
            norms = norms.where(norms.isfinite(), scaled * largest)
        self._squares += norms.square()

    def result(self) -> Tensor:
        """[B] float64 norms."""
        return self._squares.sqrt()


class Sketches:
    """Sketches of several lengths under one seed, of each layer on its own.

    Args:
        layers: the layers; a single one for the whole gradient.
        apart: whether layers are kept apart: then one of fewer than v parameters is sketched to as many numbers as
            it has, which loses nothing.
        form: of the sketch.
        lengths: v.
        seed: of the sketch; layers have seeds of their own, so that their errors are independent.
    """

    def __init__(
        self, layers: Sequence[LayerBlock], apart: bool, form: SketchForm, lengths: Sequence[int], seed: int
    ) -> None:
        self._layers = layers
        self._apart = apart
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
        """See `Consumer`."""
        for accumulator in self._accumulators:
            accumulator.start(len(timesteps), dtype, device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Consumer`."""
        layer, start = self._places[offset]
        self._accumulators[layer].add(start, gradients)

    def result(self, length: int) -> Tensor:
        """[B, width] sketches, layer by layer."""
        pairs = zip(self._layers, self._accumulators, strict=True)
        parts = [accumulator.result(self._length(length, layer)) for layer, accumulator in pairs]
        return torch.cat(parts, dim=1) if self._apart else parts[0]

    def _length(self, length: int, layer: LayerBlock) -> int:
        return min(length, layer.size) if self._apart else length


class Whole:
    """The gradients themselves, [B, p]."""

    def __init__(self, total: int) -> None:
        self._total = total

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """See `Consumer`."""
        self._rows = torch.zeros(len(timesteps), self._total, dtype=dtype, device=device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Consumer`."""
        self._rows[:, offset : offset + gradients.shape[1]] = gradients

    def result(self) -> Tensor:
        """[B, p] gradients."""
        return self._rows


class InnerProducts:
    """Inner products with the queries' gradients at the same timestep.

    Args:
        queries: [T, m, p] whole gradients of the queries, or [1, m, p], the same for all timesteps.
        layers: the layers whose products are kept apart; a single one for the whole gradient.
    """

    def __init__(self, queries: Tensor, layers: Sequence[LayerBlock]) -> None:
        self._queries = queries
        self._count = len(layers)
        self._layer = {offset: index for index, layer in enumerate(layers) for offset in layer.places}

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """See `Consumer`."""
        if len(self._queries) == 1:
            timesteps = torch.zeros_like(timesteps)
        self._members = [(t, torch.nonzero(timesteps == t).squeeze(1)) for t in timesteps.unique().tolist()]
        self._products = torch.zeros(self._count, len(timesteps), self._queries.shape[1], dtype=dtype, device=device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Consumer`."""
        products = self._products[self._layer[offset]]
        for t, members in self._members:
            other = self._queries[t, :, offset : offset + gradients.shape[1]]
            mine = gradients if len(members) == len(gradients) else gradients[members.to(gradients.device)]
            products[members] += mine @ other.to(mine.dtype).T

    def result(self) -> Tensor:
        """[B, m * L] inner products, the L layers of each query side by side."""
        return self._products.permute(1, 2, 0).flatten(1)


class Summed:
    """Adds up the gradients of each item before other consumers see them, for means over timesteps.

    All the rest of the work then takes a T-th. The sum stands in the place of the item's first pair, the others have
    zeros.

    Args:
        inner: linear consumers that treat all timesteps alike.
    """

    def __init__(self, inner: Sequence[Consumer]) -> None:
        self._inner = inner

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """See `Consumer`."""
        distinct, self._group = torch.unique(items, return_inverse=True)
        self._first = torch.stack([(self._group == group).nonzero()[0, 0] for group in range(len(distinct))])
        self._group = self._group.to(device)
        for consumer in self._inner:
            consumer.start(distinct, torch.zeros_like(distinct), dtype, device)

    def add(self, offset: int, gradients: Tensor) -> None:
        """See `Consumer`."""
        sums = gradients.new_zeros(len(self._first), gradients.shape[1])
        sums.index_add_(0, self._group, gradients)
        for consumer in self._inner:
            consumer.add(offset, sums)

    def spread(self, sums: Tensor) -> Tensor:
        """[B, width] from an inner consumer's result."""
        rows = sums.new_zeros(len(self._group), sums.shape[1])
        rows[self._first.to(sums.device)] = sums
        return rows
