"""The plan: which features the methods need, which passes bring them forth, what is done and what is to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from attrbench.errors import AttrbenchError
from attrbench.features import Feature, FeaturePlan, GradientProducts, GradientRows, GradientSource
from attrbench.gradients.collect import ENGINE_VERSION, GradientFeature
from attrbench.running.settings import MethodRequest, RunSettings
from attrbench.store.fingerprint import parameters_fingerprint
from attrbench.store.shards import FeatureStore, Unit, units
from attrbench.task import Items, OpenTask, TaskMeta

QUERY_SHARD = 16


@dataclass
class PlannedPass:
    """One sweep of backward passes over one split, and the features that come out of it.

    Attributes:
        source: what decides the gradients.
        split: `train` or `query`.
        units: the shards.
        stores: a store a feature.
        methods: labels of the methods that it serves.
    """

    source: GradientSource
    split: str
    units: list[Unit]
    stores: dict[GradientFeature, FeatureStore] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)

    def needs(self, unit: Unit) -> bool:
        """Whether at least one store lacks the shard."""
        return any(store.state(unit) != "done" for store in self.stores.values())

    def missing(self) -> list[Unit]:
        """The shards that at least one store lacks."""
        return [unit for unit in self.units if self.needs(unit)]


class Plan:
    """What a run of several methods on one open task will compute.

    Args:
        meta: of the task.
        opened: the task.
        methods: the requests.
        settings: the run's settings.
    """

    def __init__(
        self, meta: TaskMeta, opened: OpenTask, methods: Sequence[MethodRequest], settings: RunSettings
    ) -> None:
        self.meta = meta
        self.opened = opened
        self.settings = settings
        self.train_count = _limited(len(opened.train), settings.limit_train)
        self.query_count = _limited(len(opened.queries), settings.limit_queries)
        if len(opened.train) != meta.train_items:
            raise AttrbenchError(
                f"task {meta.name}: its meta promises {meta.train_items} training items, it has {len(opened.train)}"
            )
        self.passes: dict[tuple[str, GradientSource], PlannedPass] = {}
        self._features: dict[str, FeaturePlan | Exception] = {}
        for request in methods:
            try:
                features = request.method.features()
            except Exception as error:  # the method's own fault: kept for its record, the others go on
                self._features[request.label] = error
                continue
            self._features[request.label] = features
            self._add("train", features.train, request.label)
            self._add("query", features.query, request.label)

    def features(self, request: MethodRequest) -> FeaturePlan:
        """What the method declared; raises what it raised when it was asked."""
        features = self._features[request.label]
        if isinstance(features, Exception):
            raise features
        return features

    def _add(self, split: str, feature: Feature | None, label: str) -> None:
        if isinstance(feature, GradientProducts) and split == "query":
            return  # the products lie with the training set's pass, which takes the queries' gradients in memory
        if not isinstance(feature, GradientRows | GradientProducts):
            return
        key = (split, feature.source)
        if key not in self.passes:
            cut = units(self.train_count) if split == "train" else units(self.query_count, QUERY_SHARD)
            self.passes[key] = PlannedPass(feature.source, split, cut)
        planned = self.passes[key]
        planned.stores.setdefault(feature, self.store(split, feature))
        if label not in planned.methods:
            planned.methods.append(label)

    def items(self, split: str) -> Items:
        """The items of a split, all of them."""
        return self.opened.train if split == "train" else self.opened.queries

    def store(self, split: str, feature: GradientFeature) -> FeatureStore:
        """The store of a gradient feature; its fingerprint covers all that decides the numbers."""
        denoiser = self.opened.denoiser
        description: dict[str, object] = {
            "engine": ENGINE_VERSION,
            "task": f"{self.meta.name} v{self.meta.version}",
            "split": split,
            "items": self.items(split).fingerprint,
            "model": denoiser.fingerprint,
            "parameters": self._parameters[feature.source.parameters],
            "timesteps": list(denoiser.timesteps(feature.source.grid)),
            "kind": type(feature).__name__,
            "feature": feature.model_dump(mode="json"),
        }
        if isinstance(feature, GradientProducts):
            description["queries"] = [self.items("query").fingerprint, self.query_count]
        return FeatureStore(self.settings.cache, description)

    @cached_property
    def _parameters(self) -> dict[str, str]:
        named = self.opened.denoiser.attributed_parameters("all")
        return {"all": parameters_fingerprint({name: tuple(p.shape) for name, p in named.items()})}

    def bytes_to_write(self) -> int:
        """Size of the rows that are still missing."""
        total = 0
        for planned in self.passes.values():
            steps = planned.source.grid.steps
            for feature, store in planned.stores.items():
                items = sum(unit.last - unit.first for unit in planned.units if store.state(unit) != "done")
                total += 4 * items * steps * (self.width(feature) + 1)
        return total

    def width(self, feature: GradientFeature) -> int:
        """Numbers kept for one item and timestep."""
        if isinstance(feature, GradientProducts):
            return self.query_count
        if feature.sketch is not None:
            return feature.sketch.length
        return sum(p.numel() for p in self.opened.denoiser.attributed_parameters(feature.source.parameters).values())

    def lines(self) -> list[str]:
        """The plan in words, one line a pass."""
        out = [f"{self.train_count} training items, {self.query_count} queries"]
        for planned in self.passes.values():
            missing, widths = len(planned.missing()), ", ".join(_name(feature) for feature in planned.stores)
            grid = planned.source.grid
            out.append(
                f"gradients of {planned.split} items at T={grid.steps} ({grid.kind}): {missing} of {len(planned.units)}"
                f" shards to compute; {widths}; serves {', '.join(planned.methods)}"
            )
        out.append(f"{self.bytes_to_write() / 1e6:,.0f} MB to write below {self.settings.cache}")
        return out


def _limited(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)


def _name(feature: GradientFeature) -> str:
    if isinstance(feature, GradientProducts):
        return "inner products with the queries"
    return "whole rows" if feature.sketch is None else f"sketch v={feature.sketch.length}"
