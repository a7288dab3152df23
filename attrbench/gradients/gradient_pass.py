"""The pass: one sweep of backward passes over a data set, out of which come all features that a run needs of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from attrbench.contracts.denoiser import Denoiser, Encoded
from attrbench.contracts.feature import GradientProducts, GradientRows, GradientSource, Layers, Outputs
from attrbench.contracts.method import Transformed
from attrbench.gradients.batching import BatchSize, ran_out_of_memory
from attrbench.gradients.engine import Engine
from attrbench.gradients.inner_products import InnerProductSink
from attrbench.gradients.layer_blocks import LayerBlock, layer_blocks
from attrbench.gradients.per_sample import Batch
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.gradients.shard_buffer import GradientFeature, ShardBuffer
from attrbench.gradients.sinks import GatheringSink, NormSink, Sink, SketchSink, TimestepSumSink, WholeGradientSink
from attrbench.gradients.version import ENGINE_VERSION
from attrbench.store.shards import FeatureStore, Unit, units

__all__ = ["ENGINE_VERSION", "GradientPass", "Split"]


class GradientPass:
    """Computes shards of all features of one source over one split.

    Args:
        source: what decides the gradients.
        denoiser: the model.
        split: the items.
        engine: how to compute.
        queries: for each `GradientProducts` among the features, what to multiply with: [T, m, p], or [1, m, p] for
            means; NaN throughout where a query's gradient is not finite. With what is to be known of it.
        memo: file that remembers a batch size which had to be halved.
        only: names of the parameters to differentiate; all attributed ones by default.
    """

    def __init__(
        self,
        source: GradientSource,
        denoiser: Denoiser,
        split: Split,
        engine: Engine,
        queries: Mapping[GradientProducts, Transformed] | None = None,
        memo: Path | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        self.source = source
        self.pairs = NoisySamples(source, denoiser, split, only=only)
        self.denoiser = self.pairs.denoiser
        self.split = split
        self._factors = queries or {}
        self.queries = {feature: factor.gradients for feature, factor in self._factors.items()}
        self.query_norms = {f: torch.linalg.vector_norm(r, dim=2).T.cpu().numpy() for f, r in self.queries.items()}
        self.timesteps = self.pairs.timesteps
        self.gradients = self.pairs.gradients(backend=engine.backend)
        self._batch_size = BatchSize(engine.batch_size, denoiser.device, memo)
        self._consumers: dict[frozenset[GradientFeature], _FeatureSinks] = {}

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
        sheets: dict[GradientFeature, ShardBuffer] = {}
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

    def whole(self, unit: Unit, mean: bool = False) -> Tensor:
        """[T, items, p] float32 whole gradients on the pass's device, or their means [1, items, p] over timesteps.

        For the queries of `GradientProducts`. A NaN or infinite gradient is NaN throughout, so that it can't be taken
        for a finite one.
        """
        consumer = WholeGradientSink(self.gradients.total)
        count = len(self.timesteps)
        shape = (1 if mean else count, unit.last - unit.first, self.gradients.total)
        rows = torch.zeros(shape, device=self.denoiser.device)

        def keep(items: Tensor, steps: Tensor, outputs: Tensor) -> None:
            values = consumer.result().float()
            lost = ~torch.linalg.vector_norm(values, ord=torch.inf, dim=1).isfinite()  # isfinite of all is far slower
            if lost.any():
                values[lost] = torch.nan
            if mean:
                rows[0].index_add_(0, items.to(rows.device), values, alpha=1 / count)
            else:
                rows[steps, items] = values

        self.sweep(unit, [consumer], keep)
        return rows

    def _sheet(self, feature: GradientFeature, store: FeatureStore, shard: Unit) -> ShardBuffer:
        norms, facts = None, None
        if isinstance(feature, GradientProducts):
            norms, facts = self.query_norms[feature], self._factors[feature].facts
        return ShardBuffer(feature, store, shard, len(self.timesteps), self.width(feature), norms, facts)

    def width(self, feature: GradientFeature) -> int:
        """Numbers a row."""
        if isinstance(feature, Outputs):
            return 1
        if isinstance(feature, GradientProducts):
            return self.queries[feature].shape[1] * len(self.layers(feature.layers))
        if feature.sketch is None:
            return self.gradients.total
        if feature.layers == "all":
            return feature.sketch.length
        return sum(min(feature.sketch.length, layer.size) for layer in self.layers(feature.layers))

    def _fill(self, group: Unit, sheets: dict[GradientFeature, ShardBuffer]) -> None:
        """One sweep over the items of `group`, into the sheets."""
        chosen = frozenset(sheets)
        if chosen not in self._consumers:
            self._consumers[chosen] = _FeatureSinks(list(sheets), self)
        consumers = self._consumers[chosen]

        def keep(items: Tensor, steps: Tensor, outputs: Tensor) -> None:
            norms = consumers.norms.result() if consumers.all else outputs
            for feature, sheet in sheets.items():
                ours = outputs if isinstance(feature, Outputs) else norms
                finite = ours.isfinite()
                values = outputs[:, None] if isinstance(feature, Outputs) else consumers.result(feature)
                sheet.file(items + group.first, steps, values, ours.where(finite, 0.0), finite)
                for b in torch.nonzero(~finite.cpu()).flatten().tolist():
                    sheet.lose(group.first + int(items[b]), self.timesteps[int(steps[b])])

        seconds = self.sweep(group, consumers.all, keep)
        for sheet in sheets.values():
            for item, spent in enumerate(seconds, group.first):
                sheet.time(item, spent)

    def sweep(
        self, unit: Unit, consumers: Sequence[Sink], keep: Callable[[Tensor, Tensor, Tensor], None]
    ) -> list[float]:
        """Runs all pairs of `unit` through the network, and back where there are consumers.

        Args:
            unit: the items.
            consumers: of the gradients, batch by batch.
            keep: called after each batch with items ([B], counted from the unit's first), places in the grid ([B])
                and outputs ([B]).

        Returns:
            Seconds an item.
        """
        started = time.perf_counter()
        encoded = self.pairs.encode(unit.first, unit.last)
        encoding = (time.perf_counter() - started) / len(encoded)
        groups = [[i] for i in range(len(encoded))] if self.split.one_by_one else [list(range(len(encoded)))]
        seconds: list[float] = []
        for group in groups:
            started = time.perf_counter()
            items = torch.tensor(group).repeat_interleave(len(self.timesteps))  # item by item, so that few are cut
            steps = torch.arange(len(self.timesteps)).repeat(len(group))
            held = sum(consumer.held for consumer in consumers)
            one_pair = partial(self._bytes_per_sample, unit, encoded, items[:1], steps[:1], held)
            done = 0
            while done < len(items):
                size = self._batch_size.get(one_pair)
                chosen = done + steps[done : done + size].argsort(stable=True)  # so that a timestep is one stretch
                batch = self.pairs.batch(unit.first, encoded, items[chosen], steps[chosen])
                outputs = self._outputs(batch, items[chosen], steps[chosen], consumers)
                if outputs is None:
                    self._batch_size.shrink()
                else:
                    keep(items[chosen], steps[chosen], outputs)
                    done += size
            _synchronize(self.denoiser.device)
            seconds += [encoding + (time.perf_counter() - started) / len(group)] * len(group)
        return seconds

    def _outputs(self, batch: Batch, items: Tensor, steps: Tensor, consumers: Sequence[Sink]) -> Tensor | None:
        """Runs one batch; None where memory ran out. Consumers start anew, so a batch cut short leaves nothing."""
        dtype = torch.float64 if batch.noisy.dtype == torch.float64 else torch.float32
        gathered = GatheringSink(self.gradients.total, consumers, list(self.gradients.offsets.values()))
        small = len(items) * self.gradients.total <= gathered.LARGEST
        receivers: Sequence[Sink] = [gathered] if small else consumers

        def sink(offset: int, gradients: Tensor) -> None:
            gradients = gradients.to(dtype)
            for receiver in receivers:
                receiver.add(offset, gradients)

        try:
            for receiver in receivers:
                receiver.start(items, steps, dtype, self.denoiser.device)
            if consumers:
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
        return 4 * held + self.gradients.bytes_per_sample(self.pairs.batch(unit.first, encoded, items, steps))


class _FeatureSinks:
    """The consumers that a set of features needs; features that can be had together share one."""

    def __init__(self, features: Sequence[GradientFeature], work: GradientPass) -> None:
        self.norms = NormSink()
        together: dict[tuple[object, ...], list[GradientFeature]] = {}
        for feature in features:
            if not isinstance(feature, Outputs):
                together.setdefault(_key(feature), []).append(feature)
        shared = {key: _consumer(members, work) for key, members in together.items()}
        self._of = {feature: shared[key] for key, members in together.items() for feature in members}
        self._columns = {}  # of each feature in what a consumer of products gives
        for members in together.values():
            start = 0
            for feature in members:
                width = work.width(feature)
                self._columns[feature] = slice(start, start + width)
                start += width
        means = [consumer for key, consumer in shared.items() if _is_mean(key)]
        self._sums = TimestepSumSink(means)
        self.all: list[Sink] = [self.norms] if shared else []
        self.all += [consumer for key, consumer in shared.items() if not _is_mean(key)]
        self.all += [self._sums] if means else []

    def result(self, feature: GradientFeature) -> Tensor:
        """[B, width] of one feature, rows not yet normalized."""
        values = self._result(feature)
        return self._sums.spread(values) if _is_mean(_key(feature)) else values

    def _result(self, feature: GradientFeature) -> Tensor:
        consumer = self._of[feature]
        if isinstance(consumer, SketchSink):
            assert isinstance(feature, GradientRows) and feature.sketch is not None
            return consumer.result(feature.sketch.length)
        assert isinstance(consumer, WholeGradientSink | InnerProductSink)
        return (
            consumer.result()[:, self._columns[feature]]
            if isinstance(consumer, InnerProductSink)
            else consumer.result()
        )


def _key(feature: GradientFeature) -> tuple[object, ...]:
    """Features of one key share a consumer; the last entry says whether sums over timesteps will do."""
    assert not isinstance(feature, Outputs)
    mean = feature.timesteps == "mean"
    if isinstance(feature, GradientProducts):
        return ("products", feature.layers, mean)
    if feature.sketch is None:
        return ("whole", mean)
    return ("sketch", feature.sketch.form, feature.sketch.seed, feature.layers, mean)


def _is_mean(key: tuple[object, ...]) -> bool:
    return key[-1] is True


def _consumer(features: Sequence[GradientFeature], work: GradientPass) -> Sink:
    """One consumer for features of one key: sketches of several lengths, products with several sets of queries."""
    feature = features[0]
    assert not isinstance(feature, Outputs)
    layers = work.layers(feature.layers)
    if isinstance(feature, GradientProducts):
        return InnerProductSink([work.queries[f] for f in features if isinstance(f, GradientProducts)], layers)
    if feature.sketch is None:
        return WholeGradientSink(work.gradients.total)
    lengths = {other.sketch.length for other in features if isinstance(other, GradientRows) and other.sketch}
    return SketchSink(layers, feature.layers != "all", feature.sketch.form, sorted(lengths), feature.sketch.seed)


def _cut(unit: Unit, size: int) -> list[Unit]:
    return [Unit(unit.first + part.first, unit.first + part.last) for part in units(unit.last - unit.first, size)]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
