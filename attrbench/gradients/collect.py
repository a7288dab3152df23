"""The pass: one sweep of backward passes over a data set, out of which come all features that a run needs of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attrbench.diffusion.denoiser import Denoiser, Encoded
from attrbench.diffusion.noise import feature_noise
from attrbench.features import GradientProducts, GradientRows, GradientSource
from attrbench.gradients.consumers import Consumer, InnerProducts, Norms, Sketches, Whole
from attrbench.gradients.engine import Engine
from attrbench.gradients.outputs import MODEL_OUTPUTS
from attrbench.gradients.per_sample import Batch, PerSampleGradients, per_sample_gradients
from attrbench.store.shards import FeatureStore, Timing, Unit
from attrbench.task import Items

ENGINE_VERSION = 1
"""Raised whenever the engine's numbers change by more than rounding; part of every fingerprint."""

GradientFeature = GradientRows | GradientProducts
TINY = 1e-12  # DMin's guard: g / max(|g|, 1e-12)


@dataclass(frozen=True)
class Split:
    """The items of a pass.

    Attributes:
        name: `train` or `query`; part of the seed of per-item noise.
        items: the items.
        one_by_one: process each item on its own, as a query arrives, so that its time can be told.
    """

    name: str
    items: Items
    one_by_one: bool = False


class GradientPass:
    """Computes shards of all features of one source over one split.

    Args:
        source: what decides the gradients.
        denoiser: the model.
        split: the items.
        engine: how to compute.
        queries: [T, m, p] whole gradients of the queries (NaN throughout where one is not finite), where
            `GradientProducts` are among the features.
    """

    def __init__(
        self, source: GradientSource, denoiser: Denoiser, split: Split, engine: Engine, queries: Tensor | None = None
    ) -> None:
        self.source = source
        self.denoiser = denoiser
        self.split = split
        self.engine = engine
        self.query_norms = None if queries is None else torch.linalg.vector_norm(queries, dim=2).T.cpu().numpy()
        self.queries = None if queries is None else queries.nan_to_num(0.0)
        self.timesteps = denoiser.timesteps(source.grid)
        self.gradients: PerSampleGradients = per_sample_gradients(
            denoiser, denoiser.attributed_parameters(source.parameters), MODEL_OUTPUTS[source.output], engine.backend
        )

    def compute(self, unit: Unit, stores: dict[GradientFeature, FeatureStore]) -> None:
        """Computes the shards of `unit` that are missing from `stores`, in one sweep, and commits them."""
        shape = (unit.last - unit.first, len(self.timesteps))
        wanted = {feature: store for feature, store in stores.items() if store.needs(unit)}
        if not wanted:
            return
        consumers = _Consumers(list(wanted), self.gradients.total, self.queries)
        out = {feature: np.zeros((*shape, self._width(feature)), np.float32) for feature in wanted}
        norms = np.zeros(shape, np.float32)
        nonfinite: list[tuple[int, int]] = []
        seconds = self._sweep(unit, consumers.all, lambda i, t: self._keep(consumers, i, t, out, norms, nonfinite))
        named = [(unit.first + i, self.timesteps[t]) for i, t in nonfinite]
        for feature, store in wanted.items():
            arrays = {"products" if isinstance(feature, GradientProducts) else "rows": out[feature], "norms": norms}
            if isinstance(feature, GradientProducts):
                assert self.query_norms is not None
                arrays["query_norms"] = self.query_norms
            store.write(unit, arrays, Timing(seconds, len(wanted), named))

    def whole(self, unit: Unit) -> Tensor:
        """[T, items, p] float32 whole gradients on the pass's device; for the queries of `GradientProducts`.

        A NaN or infinite gradient is NaN throughout, so that it can't be taken for a finite one.
        """
        consumer = Whole(self.gradients.total)
        shape = (len(self.timesteps), unit.last - unit.first, self.gradients.total)
        rows = torch.zeros(shape, device=self.denoiser.device)

        def keep(items: Tensor, steps: Tensor) -> None:
            values = consumer.result().float()
            rows[steps, items] = values.where(values.isfinite().all(dim=1, keepdim=True), torch.nan)

        self._sweep(unit, [consumer], keep)
        return rows

    def _width(self, feature: GradientFeature) -> int:
        if isinstance(feature, GradientProducts):
            assert self.queries is not None
            return self.queries.shape[1]
        return self.gradients.total if feature.sketch is None else feature.sketch.length

    def _keep(
        self,
        consumers: _Consumers,
        items: Tensor,
        steps: Tensor,
        out: dict[GradientFeature, NDArray[np.float32]],
        norms: NDArray[np.float32],
        nonfinite: list[tuple[int, int]],
    ) -> None:
        """Files the results of a batch; a NaN or infinite gradient leaves a zero row and its name."""
        norm = consumers.norms.result()
        finite = norm.isfinite()
        norm = norm.where(finite, 0.0)
        i, t = items.cpu().numpy(), steps.cpu().numpy()
        norms[i, t] = norm.cpu().numpy()
        nonfinite += [(int(i[b]), int(t[b])) for b in np.flatnonzero(~finite.cpu().numpy())]
        for feature, array in out.items():
            values = consumers.result(feature)
            if isinstance(feature, GradientRows):
                values = values / norm.clamp_min(TINY).to(values.dtype).unsqueeze(1)
            array[i, t] = torch.where(finite.unsqueeze(1), values, 0.0).float().cpu().numpy()

    def _sweep(self, unit: Unit, consumers: Sequence[Consumer], keep: Callable[[Tensor, Tensor], None]) -> list[float]:
        """Runs all pairs of `unit` through the backward pass; returns seconds an item."""
        images = self.split.items.images[unit.first : unit.last]
        prompts = self.split.items.prompts[unit.first : unit.last]
        started = time.perf_counter()
        encoded = self.denoiser.encode(images, prompts, self.source.image_range)
        encoding = (time.perf_counter() - started) / len(encoded)
        groups = [[i] for i in range(len(encoded))] if self.split.one_by_one else [list(range(len(encoded)))]
        seconds: list[float] = []
        for group in groups:
            started = time.perf_counter()
            for items, steps in self._pairs(group):
                for consumer in consumers:
                    consumer.start(steps, encoded.latents.dtype, self.denoiser.device)
                self.gradients(self._batch(unit, encoded, items, steps), _spread(consumers))
                keep(items, steps)
            _synchronise(self.denoiser.device)
            seconds += [encoding + (time.perf_counter() - started) / len(group)] * len(group)
        return seconds

    def _pairs(self, group: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (item index in the unit, index into the grid), timestep by timestep."""
        items = torch.tensor(group).repeat(len(self.timesteps))
        steps = torch.arange(len(self.timesteps)).repeat_interleave(len(group))
        size = self.engine.batch_size
        yield from zip(items.split(size), steps.split(size), strict=True)

    def _batch(self, unit: Unit, encoded: Encoded, items: Tensor, steps: Tensor) -> Batch:
        device = self.denoiser.device
        chosen = encoded.select(items.to(device))
        t = torch.tensor([self.timesteps[step] for step in steps.tolist()])
        noise = torch.stack(
            [
                feature_noise(self.source, self.split.name, unit.first + item, step, self.denoiser.latent_shape)
                for item, step in zip(items.tolist(), t.tolist(), strict=True)
            ]
        ).to(device, chosen.latents.dtype)
        t = t.to(device)
        noisy = self.denoiser.noisy(chosen.latents, noise, t)
        return Batch(noisy, self.denoiser.target(chosen.latents, noise, t), t, chosen.conditioning)


class _Consumers:
    """The consumers that a set of features needs; sketches under one seed share one."""

    def __init__(self, features: Sequence[GradientFeature], total: int, queries: Tensor | None) -> None:
        self.norms = Norms()
        self._products = None
        self._whole = None
        lengths: dict[int, list[int]] = {}
        for feature in features:
            if isinstance(feature, GradientProducts):
                assert queries is not None
                self._products = InnerProducts(queries)
            elif feature.sketch is None:
                self._whole = Whole(total)
            else:
                lengths.setdefault(feature.sketch.seed, []).append(feature.sketch.length)
        self._sketches = {seed: Sketches(values, seed) for seed, values in lengths.items()}
        optional = [self._products, self._whole, *self._sketches.values()]
        self.all: list[Consumer] = [self.norms, *(consumer for consumer in optional if consumer is not None)]

    def result(self, feature: GradientFeature) -> Tensor:
        """[B, width] of one feature, rows not yet normalised."""
        if isinstance(feature, GradientProducts):
            assert self._products is not None
            return self._products.result()
        if feature.sketch is None:
            assert self._whole is not None
            return self._whole.result()
        return self._sketches[feature.sketch.seed].result(feature.sketch.length)


def _spread(consumers: Sequence[Consumer]) -> Callable[[int, Tensor], None]:
    def sink(offset: int, gradients: Tensor) -> None:
        for consumer in consumers:
            consumer.add(offset, gradients)

    return sink


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
