"""The pass: one sweep of backward passes over a data set, out of which come all features that a run needs of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from attrbench.diffusion.denoiser import Denoiser, Encoded
from attrbench.diffusion.noise import feature_noise
from attrbench.features import GradientProducts, GradientSource, Layers
from attrbench.gradients.backends import per_sample_gradients
from attrbench.gradients.batching import BatchSize, ran_out_of_memory
from attrbench.gradients.consumers import Consumer, InnerProducts, Norms, Sketches, Whole
from attrbench.gradients.engine import Engine
from attrbench.gradients.layer_blocks import LayerBlock, layer_blocks
from attrbench.gradients.outputs import MODEL_OUTPUTS, WEIGHTED
from attrbench.gradients.per_sample import Batch, PerSampleGradients
from attrbench.gradients.sheets import GradientFeature, Sheet
from attrbench.gradients.version import ENGINE_VERSION
from attrbench.store.shards import FeatureStore, Unit, units
from attrbench.task import Items

__all__ = ["ENGINE_VERSION", "GradientPass", "Split"]


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
        memo: file that remembers a batch size which had to be halved.
    """

    def __init__(
        self,
        source: GradientSource,
        denoiser: Denoiser,
        split: Split,
        engine: Engine,
        queries: Tensor | None = None,
        memo: Path | None = None,
    ) -> None:
        self.source = source
        self.denoiser = denoiser
        self.split = split
        self.query_norms = None if queries is None else torch.linalg.vector_norm(queries, dim=2).T.cpu().numpy()
        self.queries = None if queries is None else queries.nan_to_num(0.0)
        self.timesteps = denoiser.timesteps(source.grid)
        self.gradients: PerSampleGradients = per_sample_gradients(
            denoiser,
            denoiser.attributed_parameters(source.parameters),
            MODEL_OUTPUTS[source.output],
            engine.backend,
            source.precision,
        )
        self._batch_size = BatchSize(engine.batch_size, denoiser.device, memo)
        self._consumers: dict[frozenset[GradientFeature], _Consumers] = {}

    def layers(self, layers: Layers) -> list[LayerBlock]:
        """The attributed parameters cut into layers."""
        sizes = {name: parameter.numel() for name, parameter in self.gradients.parameters.items()}
        return layer_blocks(self.gradients.offsets, sizes, layers)

    def compute(self, unit: Unit, stores: dict[GradientFeature, FeatureStore]) -> None:
        """Computes the shards within `unit` that are missing from `stores`, in one sweep, and commits them.

        A shard is written as soon as its last item is through.
        """
        missing = {feature: store.missing(unit) for feature, store in stores.items()}
        wanted = [feature for feature, shards in missing.items() if shards]
        if not wanted:
            return
        sheets: dict[GradientFeature, Sheet] = {}
        for group in _cut(unit, min(stores[feature].shard_items for feature in wanted)):
            for feature in wanted:
                for shard in missing[feature]:
                    if shard.first == group.first:
                        sheets[feature] = self._sheet(feature, stores[feature], shard)
            if not sheets:
                continue
            self._fill(group, sheets)
            for feature in [feature for feature in sheets if sheets[feature].shard.last == group.last]:
                sheets.pop(feature).commit(len(wanted))

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

    def _sheet(self, feature: GradientFeature, store: FeatureStore, shard: Unit) -> Sheet:
        return Sheet(feature, store, shard, len(self.timesteps), self._width(feature), self.query_norms)

    def _width(self, feature: GradientFeature) -> int:
        if isinstance(feature, GradientProducts):
            assert self.queries is not None
            return self.queries.shape[1] * len(self.layers(feature.layers))
        if feature.sketch is None:
            return self.gradients.total
        if feature.layers == "all":
            return feature.sketch.length
        return sum(min(feature.sketch.length, layer.size) for layer in self.layers(feature.layers))

    def _fill(self, group: Unit, sheets: dict[GradientFeature, Sheet]) -> None:
        """One sweep over the items of `group`, into the sheets."""
        chosen = frozenset(sheets)
        if chosen not in self._consumers:
            self._consumers[chosen] = _Consumers(list(sheets), self)
        consumers = self._consumers[chosen]

        def keep(items: Tensor, steps: Tensor) -> None:
            norms = consumers.norms.result()
            finite = norms.isfinite()
            norms = norms.where(finite, 0.0)
            lost = torch.nonzero(~finite.cpu()).flatten().tolist()
            for feature, sheet in sheets.items():
                sheet.file(items + group.first, steps, consumers.result(feature), norms, finite)
                for b in lost:
                    sheet.lose(group.first + int(items[b]), self.timesteps[int(steps[b])])

        seconds = self._sweep(group, consumers.all, keep)
        for sheet in sheets.values():
            for item, spent in enumerate(seconds, group.first):
                sheet.time(item, spent)

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
            items = torch.tensor(group).repeat(len(self.timesteps))  # timestep by timestep
            steps = torch.arange(len(self.timesteps)).repeat_interleave(len(group))
            one_pair = partial(self._bytes_per_sample, unit, encoded, items[:1], steps[:1])
            done = 0
            while done < len(items):
                size = self._batch_size.get(one_pair)
                chosen = slice(done, done + size)
                if self._fits(self._batch(unit, encoded, items[chosen], steps[chosen]), steps[chosen], consumers):
                    keep(items[chosen], steps[chosen])
                    done += size
                else:
                    self._batch_size.shrink()
            _synchronise(self.denoiser.device)
            seconds += [encoding + (time.perf_counter() - started) / len(group)] * len(group)
        return seconds

    def _fits(self, batch: Batch, steps: Tensor, consumers: Sequence[Consumer]) -> bool:
        """Runs one batch; False where memory ran out. Consumers start anew, so a batch cut short leaves nothing."""
        dtype = torch.float64 if batch.noisy.dtype == torch.float64 else torch.float32
        for consumer in consumers:
            consumer.start(steps, dtype, self.denoiser.device)

        def sink(offset: int, gradients: Tensor) -> None:
            gradients = gradients.to(dtype)
            for consumer in consumers:
                consumer.add(offset, gradients)

        try:
            self.gradients(batch, sink)
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            return False
        return True

    def _bytes_per_sample(self, unit: Unit, encoded: Encoded, items: Tensor, steps: Tensor) -> int:
        return self.gradients.bytes_per_sample(self._batch(unit, encoded, items, steps))

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
        target = self.denoiser.target(chosen.latents, noise, t)
        weight = self.denoiser.loss_weights(t).to(device) if self.source.output in WEIGHTED else None
        return Batch(noisy, target, t, chosen.conditioning, weight)


class _Consumers:
    """The consumers that a set of features needs; sketches under one form, seed and cut share one."""

    def __init__(self, features: Sequence[GradientFeature], work: GradientPass) -> None:
        self.norms = Norms()
        self._of: dict[GradientFeature, Consumer] = {}
        lengths: dict[tuple[object, ...], set[int]] = {}
        for feature in features:
            if not isinstance(feature, GradientProducts) and feature.sketch is not None:
                lengths.setdefault(_key(feature), set()).add(feature.sketch.length)
        shared: dict[tuple[object, ...], Consumer] = {}
        for feature in features:
            key = _key(feature)
            if key not in shared:
                shared[key] = _consumer(feature, lengths.get(key, set()), work)
            self._of[feature] = shared[key]
        self.all: list[Consumer] = [self.norms, *shared.values()]

    def result(self, feature: GradientFeature) -> Tensor:
        """[B, width] of one feature, rows not yet normalised."""
        consumer = self._of[feature]
        if isinstance(consumer, Sketches):
            assert not isinstance(feature, GradientProducts) and feature.sketch is not None
            return consumer.result(feature.sketch.length)
        assert isinstance(consumer, Whole | InnerProducts)
        return consumer.result()


def _key(feature: GradientFeature) -> tuple[object, ...]:
    if isinstance(feature, GradientProducts):
        return ("products", feature.layers)
    if feature.sketch is None:
        return ("whole",)
    return ("sketch", feature.sketch.form, feature.sketch.seed, feature.layers)


def _consumer(feature: GradientFeature, lengths: set[int], work: GradientPass) -> Consumer:
    if isinstance(feature, GradientProducts):
        assert work.queries is not None
        return InnerProducts(work.queries, work.layers(feature.layers))
    if feature.sketch is None:
        return Whole(work.gradients.total)
    layers = work.layers(feature.layers)
    return Sketches(layers, feature.layers != "all", feature.sketch.form, sorted(lengths), feature.sketch.seed)


def _cut(unit: Unit, size: int) -> list[Unit]:
    return [Unit(unit.first + part.first, unit.first + part.last) for part in units(unit.last - unit.first, size)]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
