"""Compute the [n, n] Gram matrix of mean gradients over all parameters, without storing any gradient.

The matrix is a sum over parameters, so it is accumulated over groups of parameters: each group is as large as the
memory holds of all items' gradients, and takes one pass over the items in which only its gradients are computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attrbench.contracts.computation import Engine
from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.gradient_source import GradientSource
from attrbench.errors import Unavailable
from attrbench.gradients.batching import free_memory
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.gradients.samples import Split
from attrbench.gradients.shard_buffer import TINY
from attrbench.gradients.sinks import NormSink, TimestepSumSink, WholeGradientSink
from attrbench.store.shards import units

Floats = NDArray[np.float64]

SUMS_VERSION = 1
"""Raised whenever the meaning of a `GramSums` file changes."""

SHARE = 0.4
"""Share of the free memory that the gradients of one group of parameters may take."""
COLUMNS = 4096
"""Columns that are converted to float64 and multiplied at once."""


@dataclass(frozen=True)
class Side:
    """One factor of the inner products in a Gram matrix: a set of items with the source of their gradients.

    Attributes:
        source: declaration that decides the gradients.
        split: the items.
        count: use only the first `count` items.
        batch_size_file: file that remembers a halved batch size.
    """

    source: GradientSource
    split: Split
    count: int
    batch_size_file: Path | None = None


@dataclass
class SideSums:
    """The partial inner products of one set of items with the training items, with seconds and non-finite gradients.

    Attributes:
        products: [items, n] float64 partial inner products with the training items; None where they are known.
        seconds: [items] seconds spent in passes.
        product_seconds: seconds spent in matrix products.
        norms: [items, T] norms of the whole gradients, if they are needed before the products.
        lost: [k, 2] item index and timestep index of every gradient that was NaN or infinite.
    """

    products: Floats | None
    seconds: Floats
    product_seconds: float = 0.0
    norms: Floats | None = None
    lost: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))

    def lose(self, pairs: NDArray[np.int64]) -> None:
        """Add [k, 2] (item, timestep) index pairs to the record of non-finite gradients."""
        self.lost = np.unique(np.concatenate([self.lost, pairs]), axis=0)


@dataclass
class GramSums:
    """The partial sums of a Gram matrix computation, from which an interrupted one can be resumed.

    Attributes:
        through: number of parameters (tensors) that are already in the sums.
        sides: sums of the training set, then of each set of queries.
    """

    through: int
    sides: list[SideSums]

    @property
    def stage(self) -> int:
        """Return a number that grows with every pass over the items, to name saved sums in order."""
        return self.through + (self.sides[0].norms is not None)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the partial sums of an unfinished Gram matrix as name -> array, to save and resume from."""
        arrays: dict[str, NDArray[Any]] = {"through": np.array([self.through])}
        for index, side in enumerate(self.sides):
            known = vars(side) | {"product_seconds": np.array([side.product_seconds])}
            arrays |= {f"{index}/{name}": value for name, value in known.items() if value is not None}
        return arrays

    @staticmethod
    def of(arrays: Mapping[str, NDArray[Any]]) -> GramSums:
        """Return the partial sums restored from the arrays that `arrays` returned."""
        sides: dict[int, dict[str, Any]] = {}
        for name, value in arrays.items():
            if "/" in name:
                index, key = name.split("/")
                sides.setdefault(int(index), {})[key] = value
        all_sums = [
            SideSums(**{"products": None, **sides[index], "product_seconds": float(sides[index]["product_seconds"][0])})
            for index in sorted(sides)
        ]
        return GramSums(int(arrays["through"][0]), all_sums)


class GramPass:
    """The computation of a Gram matrix of mean gradients as a sum of passes, each for one group of parameters.

    Args:
        denoiser: the model.
        train: the training items.
        queries: sets of queries.
        normalize: whether each gradient is scaled to unit norm before averaging over timesteps.
        engine: back end and batch size.
        room: bytes that the gradients of one group of parameters may take; None for a share of the free memory.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        train: Side,
        queries: Sequence[Side],
        normalize: bool,
        engine: Engine,
        room: int | None = None,
    ) -> None:
        self._denoiser = denoiser
        self._sides = [train, *queries]
        self._normalize = normalize
        self._engine = engine
        self._room = self._share() if room is None else room
        named = denoiser.at(train.source.checkpoint).attributed_parameters(train.source.parameters)
        self._sizes = {name: parameter.numel() for name, parameter in named.items()}

    def _share(self) -> float:
        """Return the bytes of memory for the gradients of one group of parameters, beside the product matrices."""
        device, n = self._denoiser.device, self._sides[0].count
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what earlier passes left behind is free
        return SHARE * max(0, free_memory(device) - 24 * n * sum(side.count for side in self._sides))

    def start(self, known: bool) -> GramSums:
        """Return partial sums of zero; with `known`, the Gram matrix of the training items is not computed again."""
        n = self._sides[0].count
        sides = [SideSums(np.zeros((side.count, n)), np.zeros(side.count)) for side in self._sides]
        if known:
            sides[0].products = None
        return GramSums(0, sides)

    def stretches(self, through: int = 0) -> list[list[str]]:
        """Return the remaining parameters in groups, each small enough for its gradients of all items to fit memory.

        Raises:
            Unavailable: where the gradients of a single parameter do not fit.
        """
        items = sum(side.count for side in self._sides)
        groups: list[list[str]] = []
        used = 0.0
        for name, size in list(self._sizes.items())[through:]:
            need = 4.0 * items * size
            if need > self._room:
                raise Unavailable(
                    f"the gradients of {items} items to {name} alone need {need / 1e9:.1f} GB of memory,"
                    f" {self._room / 1e9:.1f} GB are to be had; use a sketch (v=...) or fewer items (--limit-train)"
                )
            if not groups or used + need > self._room:
                groups.append([])
                used = 0.0
            groups[-1].append(name)
            used += need
        return groups

    def steps(self, sums: GramSums) -> int:
        """Return how often `compute` will call `advance`, from the passes left and the items of each."""
        passes = len(self.stretches(sums.through)) + self._needs_norms(sums)
        return passes * sum(len(units(side.count)) for side in self._sides)

    def compute(self, sums: GramSums, keep: Callable[[GramSums], None], advance: Callable[[], None]) -> None:
        """Complete the partial sums in place, pass by pass; rows and columns of non-finite gradients become zero.

        Args:
            sums: from `start`, or from an earlier, interrupted call.
            keep: called with the sums after each pass but the last, to save them.
            advance: called after each shard's worth of items.
        """
        if self._needs_norms(sums):
            for side, known in zip(self._sides, sums.sides, strict=True):
                self._measure(side, known, advance)
            keep(sums)
        while stretch := next(iter(self.stretches(sums.through)), None):
            train: Tensor | None = None
            for side, known in zip(self._sides, sums.sides, strict=True):
                means = self._means(side, known, stretch, advance)
                train = means if train is None else train
                if known.products is not None:
                    started = time.perf_counter()
                    known.products += inner_products(means, train)
                    known.product_seconds += time.perf_counter() - started
                del means
            sums.through += len(stretch)
            if sums.through < len(self._sizes):
                keep(sums)
        self._drop_lost(sums)

    def _needs_norms(self, sums: GramSums) -> bool:
        """Return whether the norms of whole gradients must be computed in a pass of their own, before the products."""
        return self._normalize and sums.sides[0].norms is None and len(self.stretches()) > 1

    def _pass(self, side: Side, only: Sequence[str] | None) -> GradientPass:
        return GradientPass(
            side.source, self._denoiser, side.split, self._engine, batch_size_file=side.batch_size_file, only=only
        )

    def _measure(self, side: Side, known: SideSums, advance: Callable[[], None]) -> None:
        """Compute the [items, T] norms of the whole gradients in a pass of its own, and set them in `known`."""
        work, norms = self._pass(side, None), NormSink()
        all_norms = np.zeros((side.count, len(work.timesteps)))
        for unit in units(side.count):

            def keep(items: Tensor, steps: Tensor, outputs: Tensor, first: int = unit.first) -> None:
                all_norms[first + items.numpy(), steps.numpy()] = norms.result().cpu().numpy()

            known.seconds[unit.first : unit.last] += work.run(unit, [norms], keep)
            advance()
        known.norms = all_norms

    def _means(self, side: Side, known: SideSums, only: Sequence[str], advance: Callable[[], None]) -> Tensor:
        """Return the [items, p] gradients of some parameters, averaged over timesteps, on the model's device."""
        work = self._pass(side, only)
        steps = len(work.timesteps)
        whole, norms = WholeGradientSink(work.gradients.total), NormSink()
        sinks = [norms, whole if self._normalize else TimestepSumSink([whole])]
        means = torch.zeros(side.count, work.gradients.total, dtype=_dtype(work), device=self._denoiser.device)
        for unit in units(side.count):

            def keep(items: Tensor, places: Tensor, outputs: Tensor, first: int = unit.first) -> None:
                values, sizes, into = whole.result(), norms.result(), items
                if self._normalize:
                    if known.norms is not None:
                        sizes = torch.from_numpy(known.norms[first + items.numpy(), places.numpy()]).to(sizes.device)
                    values /= sizes.clamp_min(TINY).to(values.dtype)[:, None]
                else:
                    into = items.unique()  # the order of the rows of `TimestepSumSink`
                means.index_add_(0, (first + into).to(means.device), values, alpha=1 / steps)
                bad = ~sizes.isfinite().cpu().numpy()
                known.lose(np.stack([first + items.numpy()[bad], places.numpy()[bad]], axis=1))

            known.seconds[unit.first : unit.last] += work.run(unit, sinks, keep)
            advance()
        means[torch.from_numpy(known.lost[:, 0]).to(means.device)] = 0  # so that NaN does not spread to other items
        return means

    @staticmethod
    def _drop_lost(sums: GramSums) -> None:
        """Set to zero the rows and columns of items with a non-finite gradient in any group of parameters."""
        train = sums.sides[0].lost[:, 0]
        for side in sums.sides:
            if side.products is not None:
                side.products[side.lost[:, 0]] = 0
                side.products[:, train] = 0


def _dtype(work: GradientPass) -> torch.dtype:
    """Return the dtype of a pass's gradients: float64 if any parameter is, else float32."""
    double = any(parameter.dtype == torch.float64 for parameter in work.gradients.parameters.values())
    return torch.float64 if double else torch.float32


def inner_products(left: Tensor, right: Tensor) -> Floats:
    """Return the [a, b] float64 inner products of rows [a, p] and [b, p]; exactly symmetric if `left is right`."""
    if left.device.type == "cpu":
        return _on_cpu(left.numpy(), right.numpy())
    sums = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    for start in range(0, left.shape[1], COLUMNS):
        a, b = (rows[:, start : start + COLUMNS].double() for rows in (left, right))
        sums.addmm_(a, b.T)
    total: Floats = sums.cpu().numpy()
    return (total + total.T) / 2 if left is right else total


def _on_cpu(left: NDArray[Any], right: NDArray[Any]) -> Floats:
    """Return float64 inner products by numpy: faster than MKL on non-Intel CPUs, half the work if left is right."""
    same = np.may_share_memory(left, right)
    total = np.zeros((len(left), len(right)))
    for start in range(0, left.shape[1], COLUMNS):
        a = left[:, start : start + COLUMNS].astype(np.float64)
        b = a if same else right[:, start : start + COLUMNS].astype(np.float64)
        total += a @ b.T
    return total
