"""The plan: which features the methods need, which passes bring them forth, what is done and what is to do."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from attrbench.contracts.feature import (
    Feature,
    FeaturePlan,
    GradientGram,
    GradientProducts,
    GradientRows,
    GradientSource,
    Layers,
    Outputs,
)
from attrbench.contracts.task import Items, OpenTask, TaskMeta
from attrbench.errors import AttrbenchError, UsageError
from attrbench.evaluation.requests import MAX_DEPTH, MethodRequest, RunSettings
from attrbench.gradients.layer_blocks import LayerBlock, layer_blocks, layer_columns
from attrbench.gradients.shard_buffer import GradientFeature
from attrbench.gradients.sketching.reference import state_bytes
from attrbench.gradients.version import ENGINE_VERSION
from attrbench.store.encoding import row_bytes
from attrbench.store.fingerprint import fingerprint, parameters_fingerprint
from attrbench.store.shards import SHARD_ITEMS, FeatureStore, Unit, shard_items, units

if TYPE_CHECKING:
    from attrbench.contracts.denoiser import Denoiser
    from attrbench.evaluation.ground_truth_step import GroundTruths

QUERY_SHARD = 16


@dataclass
class PlannedPass:
    """One sweep of backward passes over one split, and the features that come out of it.

    Attributes:
        source: what decides the gradients.
        split: `train` or `query`.
        units: the shards.
        stores: a store a feature.
        serves: labels of the methods that want each feature.
    """

    source: GradientSource
    split: str
    units: list[Unit]
    stores: dict[GradientFeature, FeatureStore] = field(default_factory=dict)
    serves: dict[GradientFeature, list[str]] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Labels of the methods that it serves."""
        return list(dict.fromkeys(label for labels in self.serves.values() for label in labels))

    def drop(self, label: str) -> None:
        """Takes away what only this method wanted."""
        for feature, labels in list(self.serves.items()):
            self.serves[feature] = [other for other in labels if other != label]
            if not self.serves[feature]:
                del self.serves[feature], self.stores[feature]

    def needs(self, unit: Unit) -> bool:
        """Whether at least one store lacks the shard."""
        return any(store.state(shard) != "done" for store in self.stores.values() for shard in store.shards(unit))

    def missing(self) -> list[Unit]:
        """The shards that at least one store lacks."""
        return [unit for unit in self.units if self.needs(unit)]


@dataclass
class PlannedGram:
    """The Gram matrix of the training items' gradients, and their products with the queries'.

    Attributes:
        feature: the declaration, without the queries' own source.
        store: of the matrix, a single shard.
        crosses: for each declaration the store of the products with the queries, a single shard.
        serves: labels of the methods that want each of them.
        counts: training items and queries.
    """

    feature: GradientGram
    store: FeatureStore
    counts: tuple[int, int]
    crosses: dict[GradientGram, FeatureStore] = field(default_factory=dict)
    serves: dict[GradientGram, list[str]] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Labels of the methods that it serves."""
        return list(dict.fromkeys(label for labels in self.serves.values() for label in labels))

    @property
    def whole(self) -> Unit:
        """The matrix's shard."""
        return Unit(0, self.counts[0])

    @property
    def asked(self) -> Unit:
        """The shard of products with queries."""
        return Unit(0, self.counts[1])

    @property
    def known(self) -> bool:
        """Whether the matrix itself is there."""
        return self.store.state(self.whole) == "done"

    def missing(self) -> list[GradientGram]:
        """The declarations whose products are still to be computed: all of them where the matrix itself is."""
        return [
            feature for feature, store in self.crosses.items() if not self.known or store.state(self.asked) != "done"
        ]

    @property
    def bytes_to_write(self) -> int:
        """Size of what is missing."""
        items, queries = self.counts
        return 8 * items * (queries * len(self.missing()) + (0 if self.known else items))

    def drop(self, label: str) -> None:
        """Takes away what only this method wanted."""
        for feature, labels in list(self.serves.items()):
            self.serves[feature] = [other for other in labels if other != label]
            if not self.serves[feature]:
                del self.serves[feature], self.crosses[feature]


class Plan:
    """What a run of several methods on one open task will compute.

    Args:
        meta: of the task.
        opened: the task.
        methods: the requests.
        settings: the run's settings.
        truths: the ground truths of the run; None where there are none.
    """

    def __init__(
        self,
        meta: TaskMeta,
        opened: OpenTask,
        methods: Sequence[MethodRequest],
        settings: RunSettings,
        truths: GroundTruths | None = None,
    ) -> None:
        self.truths = truths
        self.meta = meta
        self.opened = opened
        self.settings = settings
        self.train_count = _limited(len(opened.train), settings.limit_train)
        self.query_count = _limited(len(opened.queries), settings.limit_queries)
        if meta.train_items not in (None, len(opened.train)):
            raise AttrbenchError(
                f"task {meta.name}: its meta promises {meta.train_items} training items, it has {len(opened.train)}"
            )
        self.passes: dict[tuple[str, GradientSource], PlannedPass] = {}
        self.grams: dict[GradientGram, PlannedGram] = {}
        self._features: dict[str, FeaturePlan | Exception] = {}
        self._transforms: dict[GradientProducts, MethodRequest] = {}
        self._denoisers: dict[str, Denoiser] = {}
        for request in methods:
            try:
                features = request.method.features()
            except Exception as error:  # the method's own fault: kept for its record, the others go on
                self._features[request.label] = error
                continue
            self._features[request.label] = features
            try:
                self._add_all(features, request)
            except AttrbenchError as error:  # what it asks of this model there is not
                self.give_up(request.label, error)

    @property
    def is_limited(self) -> bool:
        """Whether the user asked for fewer items than the task has."""
        return self.train_count < len(self.opened.train) or self.query_count < len(self.opened.queries)

    @property
    def depth(self) -> int:
        """How deep the rankings are: as deep as the metrics look, or the run's ground truths."""
        deepest = MAX_DEPTH if self.truths is None else max(MAX_DEPTH, self.truths.depth)
        return min(deepest, self.train_count)

    def features(self, request: MethodRequest) -> FeaturePlan:
        """What the method declared; raises what it raised when it was asked."""
        features = self._features[request.label]
        if isinstance(features, Exception):
            raise features
        return features

    def computes_for(self, label: str) -> bool:
        """Whether any gradient is computed for a method."""
        in_passes = any(label in planned.methods for planned in self.passes.values())
        return in_passes or any(label in gram.methods for gram in self.grams.values())

    def give_up(self, label: str, error: Exception) -> None:
        """A method that can't go on: what only it needed is not computed, and asking for its features raises."""
        self._features[label] = error
        for planned in self.passes.values():
            planned.drop(label)
        self.passes = {key: planned for key, planned in self.passes.items() if planned.stores}
        for gram in self.grams.values():
            gram.drop(label)
        self.grams = {key: gram for key, gram in self.grams.items() if gram.crosses}

    def denoiser(self, source: GradientSource) -> Denoiser:
        """The model with the weights that the source names."""
        if source.checkpoint not in self._denoisers:
            self._denoisers[source.checkpoint] = self.opened.denoiser.at(source.checkpoint)
        return self._denoisers[source.checkpoint]

    def transformer(self, feature: GradientProducts) -> MethodRequest | None:
        """The method whose transform the queries' gradients go through."""
        return self._transforms.get(feature)

    def _add_all(self, features: FeaturePlan, request: MethodRequest) -> None:
        grams = [feature for feature in (features.train, features.query) if isinstance(feature, GradientGram)]
        if grams and features.train != features.query:
            raise UsageError(f"method {request.label}: a GradientGram is to be declared for training items and queries")
        self._add("train", features.train, request)
        self._add("query", features.query, request)
        for part in features.parts:
            self._add_all(part, request)

    def _add(self, split: str, feature: Feature | None, request: MethodRequest) -> None:
        if isinstance(feature, GradientProducts | GradientGram) and split == "query":
            return  # the products lie with the training set's pass, which takes the queries' gradients in memory
        if isinstance(feature, GradientGram):
            self._add_gram(feature, request)
            return
        if not isinstance(feature, GradientRows | GradientProducts | Outputs):
            return
        if isinstance(feature, GradientProducts) and feature.transform:
            self._transforms[feature] = request
        key = (split, feature.source)
        if key not in self.passes:
            cut = units(self.train_count) if split == "train" else units(self.query_count, QUERY_SHARD)
            self.passes[key] = PlannedPass(feature.source, split, cut)
        planned = self.passes[key]
        planned.stores.setdefault(feature, self.store(split, feature))
        planned.serves.setdefault(feature, []).append(request.label)

    def _add_gram(self, feature: GradientGram, request: MethodRequest) -> None:
        matrix = _without_queries(feature)
        if matrix not in self.grams:
            store = self._gram_store(matrix, with_queries=False)
            self.grams[matrix] = PlannedGram(matrix, store, (self.train_count, self.query_count))
        planned = self.grams[matrix]
        planned.crosses.setdefault(feature, self._gram_store(feature, with_queries=True))
        planned.serves.setdefault(feature, []).append(request.label)

    def gram(self, feature: GradientGram) -> PlannedGram:
        """The planned matrix of a declaration; those that differ in the queries alone have one."""
        return self.grams[_without_queries(feature)]

    def _gram_store(self, feature: GradientGram, with_queries: bool) -> FeatureStore:
        """A store of one shard, for the matrix or for the products with the queries."""
        description = self._description("query" if with_queries else "train", feature) | {"count": self.train_count}
        if with_queries:
            asked = feature.queries or feature.source
            timesteps = list(self.denoiser(asked).timesteps(asked.grid))
            description |= {"train": self.items("train").fingerprint, "queries": self.query_count}
            description |= {"query_model": self.denoiser(asked).fingerprint, "query_timesteps": timesteps}
            description |= self._sampling(asked)
        count = self.query_count if with_queries else self.train_count
        return FeatureStore(self.settings.cache, description, 1 << (count - 1).bit_length())

    def items(self, split: str) -> Items:
        """The items of a split, all of them."""
        return self.opened.train if split == "train" else self.opened.queries

    def pass_fingerprint(self, planned: PlannedPass) -> str:
        """Identifies a pass whatever features come out of it."""
        items = self.items(planned.split).fingerprint
        source = planned.source.model_dump(mode="json")
        return fingerprint([self.meta.name, planned.split, items, self.denoiser(planned.source).fingerprint, source])

    def store(self, split: str, feature: GradientFeature) -> FeatureStore:
        """The store of a gradient feature."""
        description = self._description(split, feature)
        if isinstance(feature, GradientProducts):
            description["queries"] = [self.items("query").fingerprint, self.query_count]
            if feature.transform:  # which may look at all of the training set, and draw
                description["transform"] = [self.train_count, self.settings.seed]
        most = SHARD_ITEMS if split == "train" else QUERY_SHARD
        return FeatureStore(self.settings.cache, description, shard_items(self.item_bytes(feature), most))

    def _description(self, split: str, feature: GradientFeature | GradientGram) -> dict[str, object]:
        """What decides the numbers of every gradient feature."""
        denoiser = self.denoiser(feature.source)
        return {
            "engine": ENGINE_VERSION,
            "task": f"{self.meta.name} v{self.meta.version}",
            "split": split,
            "items": self.items(split).fingerprint,
            "model": denoiser.fingerprint,
            "parameters": self._parameters_fingerprint(feature.source.parameters),
            "timesteps": list(denoiser.timesteps(feature.source.grid)),
            "kind": type(feature).__name__,
            "feature": feature.model_dump(mode="json"),
            **self._sampling(feature.source),
        }

    def _sampling(self, source: GradientSource) -> dict[str, object]:
        """What decides the sampler's steps, where the source follows them."""
        return {"sampling": dict(self.denoiser(source).sampling)} if source.latents == "trajectory" else {}

    def _parameters_fingerprint(self, which: str) -> str:
        named = self.opened.denoiser.attributed_parameters(which)
        return parameters_fingerprint({name: tuple(p.shape) for name, p in named.items()})

    def bytes_to_write(self) -> int:
        """Size of what is still missing."""
        rows = sum(
            self.item_bytes(feature) * (shard.last - shard.first)
            for planned in self.passes.values()
            for feature, store in planned.stores.items()
            for unit in planned.units
            for shard in store.shards(unit)
            if store.state(shard) != "done"
        )
        return rows + sum(gram.bytes_to_write for gram in self.grams.values())

    def check_disk(self) -> None:
        """Refuses early what the disk can't hold.

        Raises:
            AttrbenchError: where the rows that are missing need more room than there is.
        """
        need, folder = self.bytes_to_write(), self.settings.cache
        free = shutil.disk_usage(folder).free
        if need > free:
            raise AttrbenchError(
                f"the features need {need / 1e6:,.1f} MB below {folder}, {free / 1e6:,.1f} MB are free: use a shorter"
                " sketch (v=...), dtype=int8, --limit-train, or another folder (--cache)"
            )

    def item_bytes(self, feature: GradientFeature) -> int:
        """Bytes kept for one item, norms included."""
        steps = feature.source.grid.steps
        if isinstance(feature, Outputs):
            return 4 * steps
        kept = 1 if feature.timesteps != "stack" else steps
        if isinstance(feature, GradientProducts):
            return 4 * (kept * self.query_count * len(self.layers(feature)) + steps)
        steps = kept
        return row_bytes(feature.dtype, steps, self.width(feature)) + 4 * steps

    def width(self, feature: GradientRows) -> int:
        """Numbers kept for one item and timestep."""
        if feature.sketch is None:
            return sum(layer.size for layer in self.layers(feature))
        if feature.layers == "all":
            return feature.sketch.length
        return sum(min(feature.sketch.length, layer.size) for layer in self.layers(feature))

    def layers(self, feature: GradientRows | GradientProducts | GradientGram) -> list[LayerBlock]:
        """The attributed parameters cut as the feature asks."""
        named = self.opened.denoiser.attributed_parameters(feature.source.parameters)
        sizes = {name: parameter.numel() for name, parameter in named.items()}
        ends = np.cumsum([0, *sizes.values()])
        cut: Layers = "all" if isinstance(feature, GradientGram) else feature.layers
        return layer_blocks(dict(zip(named, ends.tolist(), strict=False)), sizes, cut)

    def sizes(self, feature: GradientRows | GradientProducts | GradientGram) -> dict[str, int]:
        """Number of parameters of each layer."""
        return {layer.name: layer.size for layer in self.layers(feature)}

    def columns(self, feature: GradientRows) -> dict[str, slice] | None:
        """The columns of each layer, where layers are kept apart."""
        if feature.layers == "all":
            return None
        return layer_columns(self.layers(feature), None if feature.sketch is None else feature.sketch.length)

    def shared_bytes(self, feature: GradientRows) -> int:
        """What must be kept besides the rows so that a new query can be sketched."""
        sketch = feature.sketch
        if sketch is None:
            return 0
        if feature.layers == "all":
            return state_bytes(sketch.form, sketch.length, sum(layer.size for layer in self.layers(feature)))
        return sum(
            state_bytes(sketch.form, min(sketch.length, layer.size), layer.size) for layer in self.layers(feature)
        )

    def lines(self) -> list[str]:
        """The plan in words, one line a pass."""
        out = [f"{self.train_count} training items, {self.query_count} queries"]
        for planned in self.passes.values():
            missing, widths = len(planned.missing()), ", ".join(_name(feature) for feature in planned.stores)
            grid = planned.source.grid
            out.append(
                f"{_what(planned)} of {planned.split} items at T={grid.steps} ({grid.kind}): {missing} of"
                f" {len(planned.units)} shards to compute; {widths}; serves {', '.join(planned.methods)}"
            )
        for gram in self.grams.values():
            state = "done" if not gram.missing() else "to compute, in a sweep or more" if not gram.known else "known"
            state += ", products with queries to compute, in a sweep or more" if gram.known and gram.missing() else ""
            out.append(
                f"Gram matrix of the {_differentiated(gram.feature.source)} of train items and queries at"
                f" T={gram.feature.source.grid.steps} ({gram.feature.source.grid.kind}): {state}; whole gradients"
                f" ({gram.feature.timesteps} over timesteps), none kept; serves {', '.join(gram.methods)}"
            )
        over_train: list[PlannedPass | PlannedGram] = [p for p in self.passes.values() if p.split == "train"]
        over_train += self.grams.values()
        served = list(dict.fromkeys(label for planned in over_train for label in planned.methods))
        if served:
            out.append(
                f"{_count(len(over_train), 'pass')} over the training set: {_count(len(served), 'method')} served"
            )
        out.append(f"{self.bytes_to_write() / 1e6:,.0f} MB to write below {self.settings.cache}")
        if self.truths is not None:
            out += self.truths.lines("the run is limited" if self.is_limited else "options are being chosen")
        return out


def _without_queries(feature: GradientGram) -> GradientGram:
    """What decides the matrix alone."""
    return feature.model_copy(update={"queries": None})


def _limited(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}{'es' if thing.endswith('s') else 's'}"


def _what(planned: PlannedPass) -> str:
    """What is differentiated, and where that is not the plain thing, of which weights and latents."""
    source = planned.source
    name = _differentiated(source)
    if all(isinstance(feature, Outputs) for feature in planned.stores):
        name = f"outputs{name.removeprefix('gradients')}"
    return name + ("" if source.latents == "clean" else " along the sampling trajectory")


def _differentiated(source: GradientSource) -> str:
    name = f"gradients of the {source.output}"
    return name + ("" if source.checkpoint == "final" else f" at {source.checkpoint} weights")


def _name(feature: GradientFeature) -> str:
    if isinstance(feature, Outputs):
        return "outputs"
    if isinstance(feature, GradientProducts):
        through = f" through {feature.transform.split()[0]}" if feature.transform else ""
        return f"inner products with the queries{through}"
    name = "whole rows" if feature.sketch is None else f"sketch v={feature.sketch.length}"
    if feature.sketch is not None and feature.sketch.form != "rotation":
        name += f" ({feature.sketch.form})"
    for value, default, text in (
        (feature.timesteps, "stack", f"{feature.timesteps} over timesteps"),
        (feature.layers, "all", f"{feature.layers} by {feature.layers}"),
        (feature.dtype, "float32", feature.dtype),
    ):
        name += "" if value == default else f" {text}"
    return name
