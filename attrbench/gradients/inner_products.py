"""Compute inner products of per-sample gradients with query gradients during the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from attrbench.gradients.layer_blocks import LayerBlock


class InnerProductSink:
    """A sink (receiver of gradients) that computes inner products with query gradients at matching timesteps.

    Args:
        queries: one or several sets of whole query gradients, all [T, m, p], or all [1, m, p] for one gradient that
            is used at every timestep. NaN counts as zero.
        layers: blocks whose products are kept apart; a single block for the whole gradient.
    """

    by_parameter = True
    held = 0

    def __init__(self, queries: Sequence[Tensor], layers: Sequence[LayerBlock]) -> None:
        self._layers = len(layers)
        self._layer = {offset: index for index, layer in enumerate(layers) for offset in layer.places}
        self._count = sum(rows.shape[1] for rows in queries)
        self._same = len(queries[0]) == 1
        ends = [*sorted(self._layer), queries[0].shape[2]]
        self._factors = {
            first: [_Factor([rows[t, :, first:last] for rows in queries]) for t in range(len(queries[0]))]
            for first, last in pairwise(ends)
        }

    def start(self, items: Tensor, timesteps: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """Reset the inner products to zero for a new batch, and group its samples by timestep."""
        if self._same:
            timesteps = torch.zeros_like(timesteps)
        self._members = [(t, _places(timesteps, t)) for t in timesteps.unique().tolist()]
        self._size = len(timesteps)
        self._sums = [
            [
                torch.zeros(len(timesteps[members]), self._count, dtype=dtype, device=device)
                for _, members in self._members
            ]
            for _ in range(self._layers)
        ]

    def add(self, offset: int, gradients: Tensor) -> None:
        """Add the inner products of one parameter's gradients with the query gradients."""
        for (t, members), sums in zip(self._members, self._sums[self._layer[offset]], strict=True):
            self._factors[offset][t].add_products(sums, gradients[members])

    def result(self) -> Tensor:
        """Return the [B, m * L] inner products: for each query of each set, its products in the L layers."""
        products = self._sums[0][0].new_empty(self._size, self._count, self._layers)
        for layer, sums in enumerate(self._sums):
            for (_, members), own in zip(self._members, sums, strict=True):
                products[members, :, layer] = own
        return products.flatten(1)


class _Factor:
    """The query gradients of one parameter at one timestep, [m, w], laid out in memory for repeated products.

    On a CPU, oneDNN multiplies float32 matrices in the widest instructions that the CPU has, where the library behind
    PyTorch's own products (MKL) keeps to narrower ones on CPUs of other makers than its own: about half the speed.
    The two operators are those that `torch.compile` puts in the place of a linear layer.
    """

    SHORTEST = 512
    """Parameters with fewer entries are multiplied by torch: the oneDNN call would cost more than the arithmetic."""

    def __init__(self, rows: Sequence[Tensor]) -> None:
        rows = [part.nan_to_num(0.0) for part in rows]
        self._rows = rows[0].contiguous() if len(rows) == 1 else torch.cat(rows)
        self._by_onednn = (
            self._rows.device.type == "cpu"
            and self._rows.dtype == torch.float32
            and self._rows.shape[1] >= self.SHORTEST
            and torch.backends.mkldnn.is_available()
            and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        )
        if self._by_onednn:
            self._rows = torch.ops.mkldnn._reorder_linear_weight(self._rows)

    def add_products(self, sums: Tensor, gradients: Tensor) -> None:
        """Add the query gradients' products with a batch's gradients ([b, w]) to `sums` ([b, m]), in place."""
        if self._by_onednn and gradients.dtype == torch.float32:
            contiguous = gradients.contiguous()  # on others the operator may never return (torch 2.13)
            sums += torch.ops.mkldnn._linear_pointwise(contiguous, self._rows, None, "none", [], "")
        else:
            rows = self._rows.to_dense() if self._by_onednn else self._rows
            sums.addmm_(gradients, rows.to(gradients.dtype).T)


def _places(timesteps: Tensor, t: int) -> slice | Tensor:
    """Return the batch indices of timestep `t`; a slice if they are evenly spaced, so that indexing copies nothing."""
    indices = (timesteps == t).nonzero().squeeze(1)
    gaps = indices.diff()
    step = int(gaps[0]) if len(gaps) else 1
    even = bool((gaps == step).all())
    return slice(int(indices[0]), int(indices[-1]) + 1, step) if even else indices
