"""The plan of a run: its computations, the features and methods that each serves, and the bytes to write."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrbench.contracts.computation import Computation, SplitName, Unit
from attrbench.contracts.feature import Feature, FeatureRequest
from attrbench.contracts.metric import MAX_DEPTH
from attrbench.errors import AttrbenchError, error_line
from attrbench.evaluation.requests import MethodRequest
from attrbench.evaluation.world import TaskWorld
from attrbench.store.shards import FeatureStore

if TYPE_CHECKING:
    from attrbench.evaluation.ground_truth_step import GroundTruths

AnyFeature = Feature[Any, Any]
Stored = tuple[AnyFeature, SplitName]
"""A feature, and the split that it is stored for."""


@dataclass(frozen=True)
class Stage:
    """One computation of a plan, with the features it produces and the methods it serves.

    Attributes:
        computation: what is computed.
        stores: the store of each feature that it brings.
        serves: labels of the methods that want each.
        units: the pieces of work.
    """

    computation: Computation[Any]
    stores: Mapping[Stored, FeatureStore]
    serves: Mapping[Stored, tuple[str, ...]]
    units: tuple[Unit, ...]

    @property
    def methods(self) -> list[str]:
        """Return the labels of the methods for which this computation produces features."""
        return list(dict.fromkeys(label for labels in self.serves.values() for label in labels))

    def wanted(self, given_up: Mapping[str, Exception]) -> dict[Stored, FeatureStore]:
        """Return the feature stores of this stage that are needed by any method that has not failed."""
        return {
            stored: store
            for stored, store in self.stores.items()
            if any(label not in given_up for label in self.serves[stored])
        }


@dataclass(frozen=True)
class Plan:
    """The plan of a run of several methods on one task: the computations of features that they need, in order.

    Attributes:
        requests: the features of each method that can be had, by label.
        faults: why the others can't be had.
        stages: the computations, in the order in which they are done.
        declarers: the method that declared each feature whose computation calls it.
        depth: how deep the rankings are: as deep as the metrics look, or the run's ground truths.
    """

    requests: Mapping[str, FeatureRequest]
    faults: Mapping[str, Exception]
    stages: tuple[Stage, ...]
    declarers: Mapping[AnyFeature, MethodRequest]
    depth: int

    def computes_for(self, label: str) -> bool:
        """Return whether the plan computes any feature for the method with this label."""
        return any(label in stage.methods for stage in self.stages)


def make_plan(world: TaskWorld, methods: Sequence[MethodRequest], truths: GroundTruths | None = None) -> Plan:
    """Return the plan of a run of methods on a task; a method whose features can't be planned is kept as a fault.

    Args:
        world: the open task.
        methods: the methods.
        truths: the ground truths that are measured.
    """
    draft = _Draft(world)
    for request in methods:
        try:
            features = request.method.features()
            draft.add(request, features)
        except Exception as error:  # the method's own fault: kept for its record, the others go on
            draft.faults[request.label] = error
    deepest = MAX_DEPTH if truths is None else max(MAX_DEPTH, truths.depth)
    return Plan(
        draft.requests,
        draft.faults,
        tuple(sorted(draft.stages(), key=lambda stage: stage.computation.order)),
        draft.declarers,
        min(deepest, world.count("train")),
    )


@dataclass
class _Draft:
    """A plan of a run under construction, to which methods are added one by one."""

    world: TaskWorld
    requests: dict[str, FeatureRequest] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    declarers: dict[AnyFeature, MethodRequest] = field(default_factory=dict)
    _stores: dict[Computation[Any], dict[Stored, FeatureStore]] = field(default_factory=dict)
    _serves: dict[Computation[Any], dict[Stored, list[str]]] = field(default_factory=dict)

    def add(self, request: MethodRequest, features: FeatureRequest) -> None:
        """Add all features of a method to the plan, or none if one can't be computed."""
        stores = [
            (computation, (feature, split), self.world.store(feature, split))
            for computation, feature, split in _computed(features)
        ]
        for computation, stored, store in stores:
            self._stores.setdefault(computation, {})[stored] = store
            labels = self._serves.setdefault(computation, {}).setdefault(stored, [])
            if request.label not in labels:
                labels.append(request.label)
            if stored[0].calls_method:
                self.declarers[stored[0]] = request
        self.requests[request.label] = features

    def stages(self) -> Iterator[Stage]:
        """Yield one stage for each computation of the plan, in the order in which they were added."""
        for computation, stores in self._stores.items():
            serves = {stored: tuple(labels) for stored, labels in self._serves[computation].items()}
            yield Stage(computation, stores, serves, tuple(computation.units(self.world)))


def _computed(features: FeatureRequest) -> Iterator[tuple[Computation[Any], AnyFeature, SplitName]]:
    """Yield (computation, feature, split stored for) of a request, cached or not; skip those without computation."""
    asked: list[tuple[SplitName, AnyFeature]] = [("train", feature) for feature in features.train]
    asked += [("query", feature) for feature in features.query]
    for wanted, feature in asked:
        split = feature.stored_in(wanted)
        computation = feature.computation(split)
        if computation is not None:
            yield computation, feature, split


def bytes_to_write(plan: Plan, world: TaskWorld) -> int:
    """Return the bytes of the feature shards that a plan still has to compute and write."""
    sizes: dict[Path, int] = {}  # by file, as features that differ in the queries alone share that of the training set
    for stage in plan.stages:
        for (feature, split), store in stage.stores.items():
            size = feature.store(split, world).item_bytes
            for unit in stage.units:
                for shard in store.lacking(stage.computation.items_of(unit, split, world)):
                    sizes[store.path(shard)] = size * (shard.last - shard.first)
    return sum(sizes.values())


def check_disk(plan: Plan, world: TaskWorld) -> None:
    """Raise an error if the disk has no room for the plan's missing feature shards.

    Raises:
        AttrbenchError: where what is missing needs more room than there is.
    """
    need, folder = bytes_to_write(plan, world), world.cache
    free = shutil.disk_usage(folder).free
    if need > free:
        raise AttrbenchError(
            f"the features need {need / 1e6:,.1f} MB below {folder}, {free / 1e6:,.1f} MB are free: use a shorter"
            " sketch (v=...), dtype=int8, --limit-train, or another folder (--cache)"
        )


def plan_lines(plan: Plan, world: TaskWorld, truths: GroundTruths | None = None) -> list[str]:
    """Return the plan as lines of text for the user: items, one line for each computation, bytes to write."""
    drawn = "" if world.outlines["query"].is_drawn else ", to be drawn first"
    lines = [f"{world.count('train')} training items, {world.count('query')} queries{drawn}"]
    lines += [f"{label} can't run: {error_line(error)}" for label, error in plan.faults.items()]
    if plan.stages:
        lines += world.opened.model_description.adapter_lines
    for stage in plan.stages:
        missing = sum(stage.computation.lacks(unit, stage.stores, world) for unit in stage.units)
        features = list(dict.fromkeys(feature for feature, _ in stage.stores))
        kept = ", ".join(dict.fromkeys(feature.summary() for feature in features))
        lines.append(
            f"{stage.computation.summary(features, world)}: {missing} of {len(stage.units)} shards to compute; {kept};"
            f" serves {', '.join(stage.methods)}"
        )
    over_train = [stage for stage in plan.stages if stage.computation.split == "train"]
    served = list(dict.fromkeys(label for stage in over_train for label in stage.methods))
    if served:
        passes, methods = _count(len(over_train), "pass"), _count(len(served), "method")
        lines.append(f"{passes} over the training set: {methods} served")
    lines.append(f"{bytes_to_write(plan, world) / 1e6:,.0f} MB to write below {world.cache}")
    if truths is not None:
        lines += truths.lines("the run is limited" if world.is_limited else "options are being chosen")
    return lines


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}{'es' if thing.endswith('s') else 's'}"
