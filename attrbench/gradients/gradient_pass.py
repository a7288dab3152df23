"""Compute all features of one gradient source in a single pass over the training set or the queries."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attrbench.contracts.computation import Engine, ShardWriter, Unit
from attrbench.contracts.denoiser import Denoiser, Encoded
from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.method_results import Transformed
from attrbench.contracts.samples import Batch
from attrbench.gradients.batching import BatchSize, ran_out_of_memory
from attrbench.gradients.pass_feature import ParameterLayout, PassFeature, PassSetting
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.gradients.shard_buffer import ShardBuffer
from attrbench.gradients.sinks import GatheringSink, NormSink, Sink, TimestepSumSink, WholeGradientSink
from attrbench.gradients.sketching.input_projection import InputProjection

AnyFeature = PassFeature[Any, Any]


class GradientPass:
    """A pass of per-sample gradients over a split's items that computes shards of all features of one source.

    Args:
        source: declaration that decides the gradients (timesteps, noise, output, parameters).
        denoiser: the model.
        split: the items.
        engine: back end and batch size.
        factors: for each feature of inner products with query gradients, those gradients: [T, m, p], or [1, m, p]
            for means over timesteps; all NaN for a query whose gradient is not finite.
        batch_size_file: file that remembers a halved batch size.
        only: names of the parameters to differentiate; None for all attributed parameters.
        projection: projection of the layers' inputs that all features of the pass ask for; None for whole gradients.
    """

    def __init__(
        self,
        source: GradientSource,
        denoiser: Denoiser,
        split: Split,
        engine: Engine,
        factors: Mapping[AnyFeature, Transformed] | None = None,
        batch_size_file: Path | None = None,
        only: Collection[str] | None = None,
        projection: InputProjection | None = None,
    ) -> None:
        self.source = source
        self.projection = projection
        self.samples = NoisySamples(source, denoiser, split, only=only)
        self.denoiser = self.samples.denoiser
        self.split = split
        self.timesteps = self.samples.timesteps
        self.gradients = self.samples.gradients(backend=engine.backend, projection=projection)
        sizes = {name: parameter.numel() for name, parameter in self.gradients.parameters.items()}
        self.setting = PassSetting(ParameterLayout(sizes), len(self.timesteps), factors or {})
        self._batch_size = BatchSize(engine.batch_size, denoiser.device, batch_size_file)
        self._sinks: dict[frozenset[AnyFeature], _FeatureSinks] = {}

    def compute(self, unit: Unit, stores: Mapping[Any, ShardWriter]) -> None:
        """Compute the feature shards within `unit` that are missing from `stores`, in one pass, and write them.

        A shard is written as soon as its last item has been computed.

        Args:
            unit: range of items.
            stores: `PassFeature` -> store that its shards are written to.

        Raises:
            ValueError: for a feature of gradients with another projection of layers' inputs than the pass's.
        """
        if any(feature.projection != self.projection for feature in stores):
            raise ValueError(f"a feature needs another projection of layers' inputs than the pass's, {self.projection}")
        missing = {feature: store.missing(unit) for feature, store in stores.items()}
        incomplete = [feature for feature, shards in missing.items() if shards]
        if not incomplete:
            return
        buffers: dict[AnyFeature, ShardBuffer] = {}
        edges = sorted({edge for shards in missing.values() for shard in shards for edge in shard})
        for group in map(Unit._make, pairwise(edges)):
            for feature in incomplete:
                for shard in missing[feature]:
                    if shard.first == group.first:
                        buffers[feature] = ShardBuffer(feature, stores[feature], shard, self.setting)
            if not buffers:
                continue
            self._fill(group, buffers)
            for feature in [feature for feature in buffers if buffers[feature].shard.last == group.last]:
                buffers.pop(feature).commit(len(incomplete))

    def whole(self, unit: Unit, mean: bool = False) -> Tensor:
        """Return unsketched gradients [T, items, p] (float32, on the model's device), or their means [1, items, p].

        Used for the query side of inner products. Every entry of a gradient with a NaN or infinity is set to NaN, so
        that it can't be taken for a finite one.
        """
        sink = WholeGradientSink(self.gradients.total)
        count = len(self.timesteps)
        shape = (1 if mean else count, unit.last - unit.first, self.gradients.total)
        rows = torch.zeros(shape, device=self.denoiser.device)

        def keep(items: Tensor, steps: Tensor, outputs: Tensor) -> None:
            values = sink.result().float()
            lost = ~torch.linalg.vector_norm(values, ord=torch.inf, dim=1).isfinite()  # isfinite of all is far slower
            if lost.any():
                values[lost] = torch.nan
            if mean:
                rows[0].index_add_(0, items.to(rows.device), values, alpha=1 / count)
            else:
                rows[steps, items] = values

        self.run(unit, [sink], keep)
        return rows

    def _fill(self, group: Unit, buffers: Mapping[AnyFeature, ShardBuffer]) -> None:
        """Run the items of `group` through the network once and add the features' rows to their shard buffers."""
        chosen = frozenset(buffers)
        if chosen not in self._sinks:
            self._sinks[chosen] = _FeatureSinks(list(buffers), self.setting)
        sinks = self._sinks[chosen]

        def keep(items: Tensor, steps: Tensor, outputs: Tensor) -> None:
            norms = sinks.norms.result() if sinks.all else outputs
            for feature, buffer in buffers.items():
                magnitudes = outputs if feature.sink_key() is None else norms
                finite = magnitudes.isfinite()
                values = sinks.values(feature, outputs)
                buffer.file(items + group.first, steps, values, magnitudes.where(finite, 0.0), finite)
                for b in torch.nonzero(~finite.cpu()).flatten().tolist():
                    buffer.lose(group.first + int(items[b]), self.timesteps[int(steps[b])])

        seconds = self.run(group, sinks.all, keep)
        for buffer in buffers.values():
            for item, spent in enumerate(seconds, group.first):
                buffer.time(item, spent)

    def run(self, unit: Unit, sinks: Sequence[Sink], keep: Callable[[Tensor, Tensor, Tensor], None]) -> list[float]:
        """Run forward passes over all noisy samples of `unit`, and backward passes if there are sinks for gradients.

        Args:
            unit: range of items.
            sinks: receive the gradients, batch by batch; empty for forward passes only.
            keep: called after each batch with item indices ([B], relative to the unit's first item), timestep indices
                ([B], into the grid) and model outputs ([B]).

        Returns:
            Seconds spent on each item.
        """
        started = time.perf_counter()
        encoded = self.samples.encode(unit.first, unit.last)
        encoding = (time.perf_counter() - started) / len(encoded)
        groups = [[i] for i in range(len(encoded))] if self.split.one_by_one else [list(range(len(encoded)))]
        seconds: list[float] = []
        for group in groups:
            started = time.perf_counter()
            items = torch.tensor(group).repeat_interleave(len(self.timesteps))  # so that few items span two batches
            steps = torch.arange(len(self.timesteps)).repeat(len(group))
            held = sum(sink.held for sink in sinks)
            sample_bytes = partial(self._bytes_per_sample, unit, encoded, items[:1], steps[:1], held)
            done = 0
            while done < len(items):
                size = self._batch_size.get(sample_bytes)
                chosen = done + steps[done : done + size].argsort(stable=True)  # so that equal timesteps are contiguous
                batch = self.samples.batch(unit.first, encoded, items[chosen], steps[chosen])
                outputs = self._outputs(batch, items[chosen], steps[chosen], sinks)
                if outputs is None:
                    self._batch_size.shrink()
                else:
                    keep(items[chosen], steps[chosen], outputs)
                    done += size
            _synchronize(self.denoiser.device)
            seconds += [encoding + (time.perf_counter() - started) / len(group)] * len(group)
        return seconds

    def _outputs(self, batch: Batch, items: Tensor, steps: Tensor, sinks: Sequence[Sink]) -> Tensor | None:
        """Run one batch and return its [B] model outputs; None if memory ran out, which leaves sinks invalid."""
        dtype = torch.float64 if batch.noisy.dtype == torch.float64 else torch.float32
        gathered = GatheringSink(self.gradients.total, sinks, list(self.gradients.offsets.values()))
        small = len(items) * self.gradients.total <= gathered.LARGEST
        receivers: Sequence[Sink] = [gathered] if small else sinks

        def sink(offset: int, gradients: Tensor) -> None:
            gradients = gradients.to(dtype)
            for receiver in receivers:
                receiver.add(offset, gradients)

        try:
            for receiver in receivers:
                receiver.start(items, steps, dtype, self.denoiser.device)
            if sinks:
                outputs = self.gradients(batch, sink)
                if small:
                    gathered.hand_on()
                return outputs
            with torch.no_grad():
                return self.gradients.outputs(batch)
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            return None

    def _bytes_per_sample(self, unit: Unit, encoded: Encoded, items: Tensor, steps: Tensor, held: int) -> int:
        return 4 * held + self.gradients.bytes_per_sample(self.samples.batch(unit.first, encoded, items, steps))


class _FeatureSinks:
    """The sinks (receivers of gradients) that a pass needs; features with equal `sink_key` share one sink."""

    def __init__(self, features: Sequence[AnyFeature], setting: PassSetting) -> None:
        self.norms = NormSink()
        together: dict[object, list[AnyFeature]] = {}
        for feature in features:
            if (key := feature.sink_key()) is not None:
                together.setdefault(key, []).append(feature)
        shared = [(members, members[0].make_sink(members, setting)) for members in together.values()]
        self._of = {feature: sink for members, sink in shared for feature in members}
        self._columns = {}  # feature -> its columns in the concatenated output of the sink that it shares
        for members, _ in shared:
            start = 0
            for feature in members:
                width = feature.width(setting)
                self._columns[feature] = slice(start, start + width)
                start += width
        means = [sink for members, sink in shared if members[0].sums_suffice]
        self._sums = TimestepSumSink(means)
        self.all: list[Sink] = [self.norms] if shared else []
        self.all += [sink for members, sink in shared if not members[0].sums_suffice]
        self.all += [self._sums] if means else []

    def values(self, feature: AnyFeature, outputs: Tensor) -> Tensor:
        """Return the [B, width] values of one feature (such as sketches) for a batch, not yet of unit norm."""
        if feature not in self._of:
            return feature.values(None, slice(None), outputs)
        values = feature.values(self._of[feature], self._columns[feature], outputs)
        return self._sums.spread(values) if feature.sums_suffice else values


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
