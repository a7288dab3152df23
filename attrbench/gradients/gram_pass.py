"""The Gram matrix of whole mean gradients, no gradient ever stored (`attrbench.contracts.feature.GradientGram`).

It is a sum over parameters, so it is added up over one stretch of them after the other: as many layers as the memory
holds of all items' gradients. Each stretch takes a sweep over the items in which only its own gradients are formed.
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
"""Raised whenever `GramSums` means something else than before."""

SHARE = 0.4
"""Of the free memory, what the gradients of a stretch may take."""
COLUMNS = 4096
"""Coordinates that are multiplied at once: so many are there in double precision."""


@dataclass(frozen=True)
class Side:
    """The items on one side of the products.

    Attributes:
        source: what decides their gradients.
        split: the items; queries one by one, as they arrive.
        count: only the first so many of them.
        memo: file that remembers a batch size which had to be halved.
    """

    source: GradientSource
    split: Split
    count: int
    memo: Path | None = None


@dataclass
class SideSums:
    """What is known of one side so far.

    Attributes:
        products: [items, n] float64 sums of the inner products with the training items; None where they are not asked
            for again.
        seconds: [items] of the sweeps.
        product_seconds: of the multiplications.
        norms: [items, T] of the whole gradients, where they are needed beforehand.
        lost: [pairs, 2] item and place in the grid of every gradient that was NaN or infinite.
    """

    products: Floats | None
    seconds: Floats
    product_seconds: float = 0.0
    norms: Floats | None = None
    lost: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))

    def lose(self, pairs: NDArray[np.int64]) -> None:
        """Names further pairs that were lost."""
        self.lost = np.unique(np.concatenate([self.lost, pairs]), axis=0)


@dataclass
class GramSums:
    """Where the work stands.

    Attributes:
        through: how many parameters (tensors) are in the sums.
        sides: the training set, then each set of queries.
    """

    through: int
    sides: list[SideSums]

    @property
    def stage(self) -> int:
        """Grows with every sweep."""
        return self.through + (self.sides[0].norms is not None)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything by name, to be kept."""
        found: dict[str, NDArray[Any]] = {"through": np.array([self.through])}
        for index, side in enumerate(self.sides):
            known = vars(side) | {"product_seconds": np.array([side.product_seconds])}
            found |= {f"{index}/{name}": value for name, value in known.items() if value is not None}
        return found

    @staticmethod
    def of(arrays: Mapping[str, NDArray[Any]]) -> GramSums:
        """The inverse of `arrays`."""
        sides: dict[int, dict[str, Any]] = {}
        for name, value in arrays.items():
            if "/" in name:
                index, key = name.split("/")
                sides.setdefault(int(index), {})[key] = value
        made = [
            SideSums(**{"products": None, **sides[index], "product_seconds": float(sides[index]["product_seconds"][0])})
            for index in sorted(sides)
        ]
        return GramSums(int(arrays["through"][0]), made)


class GramPass:
    """Adds up inner products of mean gradients.

    Args:
        denoiser: the model.
        train: the training items.
        queries: sets of queries.
        normalize: whether each gradient is scaled to unit norm before the mean.
        engine: how gradients are computed.
        room: bytes that the gradients of a stretch may take; by default a share of the free memory.
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
        """What the gradients of a stretch may take, beside a few matrices of products."""
        device, n = self._denoiser.device, self._sides[0].count
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what earlier passes left behind is free
        return SHARE * max(0, free_memory(device) - 24 * n * sum(side.count for side in self._sides))

    def start(self, known: bool) -> GramSums:
        """Nothing added up yet; with `known` the training items' products with each other are not asked for."""
        n = self._sides[0].count
        sides = [SideSums(np.zeros((side.count, n)), np.zeros(side.count)) for side in self._sides]
        if known:
            sides[0].products = None
        return GramSums(0, sides)

    def stretches(self, through: int = 0) -> list[list[str]]:
        """The parameters that are left, cut so that the gradients of all items to each stretch have room.

        Raises:
            Unavailable: where those to a single parameter have none.
        """
        items = sum(side.count for side in self._sides)
        cut: list[list[str]] = []
        used = 0.0
        for name, size in list(self._sizes.items())[through:]:
            need = 4.0 * items * size
            if need > self._room:
                raise Unavailable(
                    f"the gradients of {items} items to {name} alone need {need / 1e9:.1f} GB of memory,"
                    f" {self._room / 1e9:.1f} GB are to be had; use a sketch (v=...) or fewer items (--limit-train)"
                )
            if not cut or used + need > self._room:
                cut.append([])
                used = 0.0
            cut[-1].append(name)
            used += need
        return cut

    def steps(self, sums: GramSums) -> int:
        """How often `compute` will call `advance`."""
        sweeps = len(self.stretches(sums.through)) + self._needs_norms(sums)
        return sweeps * sum(len(units(side.count)) for side in self._sides)

    def compute(self, sums: GramSums, keep: Callable[[GramSums], None], advance: Callable[[], None]) -> None:
        """Brings the sums to their end; items whose gradient is not finite get zeros.

        Args:
            sums: from `start`, or as an earlier call gave them to `keep`.
            keep: called whenever a sweep's work is in the sums and another follows.
            advance: called whenever a shard's worth of items is through.
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
        """Whether norms of whole gradients must be there before the gradients come stretch by stretch."""
        return self._normalize and sums.sides[0].norms is None and len(self.stretches()) > 1

    def _pass(self, side: Side, only: Sequence[str] | None) -> GradientPass:
        return GradientPass(side.source, self._denoiser, side.split, self._engine, batch_size_file=side.memo, only=only)

    def _measure(self, side: Side, known: SideSums, advance: Callable[[], None]) -> None:
        """A sweep for the norms alone."""
        work, norms = self._pass(side, None), NormSink()
        found = np.zeros((side.count, len(work.timesteps)))
        for unit in units(side.count):

            def keep(items: Tensor, steps: Tensor, outputs: Tensor, first: int = unit.first) -> None:
                found[first + items.numpy(), steps.numpy()] = norms.result().cpu().numpy()

            known.seconds[unit.first : unit.last] += work.sweep(unit, [norms], keep)
            advance()
        known.norms = found

    def _means(self, side: Side, known: SideSums, only: Sequence[str], advance: Callable[[], None]) -> Tensor:
        """[items, p] mean gradients to some parameters, on the pass's device."""
        work = self._pass(side, only)
        steps = len(work.timesteps)
        whole, norms = WholeGradientSink(work.gradients.total), NormSink()
        consumers = [norms, whole if self._normalize else TimestepSumSink([whole])]
        means = torch.zeros(side.count, work.gradients.total, dtype=_dtype(work), device=self._denoiser.device)
        for unit in units(side.count):

            def keep(items: Tensor, places: Tensor, outputs: Tensor, first: int = unit.first) -> None:
                values, sizes, into = whole.result(), norms.result(), items
                if self._normalize:
                    if known.norms is not None:
                        sizes = torch.from_numpy(known.norms[first + items.numpy(), places.numpy()]).to(sizes.device)
                    values /= sizes.clamp_min(TINY).to(values.dtype)[:, None]
                else:
                    into = items.unique()  # the order in which `TimestepSumSink` puts them
                means.index_add_(0, (first + into).to(means.device), values, alpha=1 / steps)
                bad = ~sizes.isfinite().cpu().numpy()
                known.lose(np.stack([first + items.numpy()[bad], places.numpy()[bad]], axis=1))

            known.seconds[unit.first : unit.last] += work.sweep(unit, consumers, keep)
            advance()
        means[torch.from_numpy(known.lost[:, 0]).to(means.device)] = 0  # what was lost must not touch the others
        return means

    @staticmethod
    def _drop_lost(sums: GramSums) -> None:
        """An item that was lost in one stretch is lost in all."""
        train = sums.sides[0].lost[:, 0]
        for side in sums.sides:
            if side.products is not None:
                side.products[side.lost[:, 0]] = 0
                side.products[:, train] = 0


def _dtype(work: GradientPass) -> torch.dtype:
    """Of the gradients."""
    double = any(parameter.dtype == torch.float64 for parameter in work.gradients.parameters.values())
    return torch.float64 if double else torch.float32


def inner_products(left: Tensor, right: Tensor) -> Floats:
    """[a, b] inner products of the rows of [a, p] and [b, p] in float64; exactly symmetric where both are the same."""
    if left.device.type == "cpu":
        return _on_cpu(left.numpy(), right.numpy())
    sums = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    for start in range(0, left.shape[1], COLUMNS):
        a, b = (rows[:, start : start + COLUMNS].double() for rows in (left, right))
        sums.addmm_(a, b.T)
    total: Floats = sums.cpu().numpy()
    return (total + total.T) / 2 if left is right else total


def _on_cpu(left: NDArray[Any], right: NDArray[Any]) -> Floats:
    """By numpy, whose library beats MKL on CPUs of other makers, and does half the work for a product with itself."""
    same = np.may_share_memory(left, right)
    total = np.zeros((len(left), len(right)))
    for start in range(0, left.shape[1], COLUMNS):
        a = left[:, start : start + COLUMNS].astype(np.float64)
        b = a if same else right[:, start : start + COLUMNS].astype(np.float64)
        total += a @ b.T
    return total
