"""The ground truth `removal`: the change in a model's images after retraining without a method's top items.

The method's items are removed, a model is trained on the rest, and its pictures are compared with those of a model
that was trained on everything, with the same seed of training, number of steps and noise to start from. The same is
done for controls: items drawn at random, items of the same classes drawn at random, the items of which the measured
quantity is largest, and those whose pixels resemble the queries. After Lin et al., "DMin", 2024, supplement, "Effect of
removing influential samples", which has none of the controls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.ground_truth import (
    Effect,
    GroundTruth,
    OpenGroundTruth,
    Stage,
    TrainingJob,
    TruthSetting,
)
from attrbench.contracts.metric import Outcome
from attrbench.contracts.options import Options
from attrbench.contracts.ranking import top_k
from attrbench.contracts.record import Control, TrainingNoise
from attrbench.errors import AttrbenchError
from attrbench.ground_truth.removal_effect import decrease, ks_statistic, result, training_noise
from attrbench.ground_truth.retraining import DrawnPictures, measured, training_job
from attrbench.metrics.removal import class_matched, highest, hubness, most_retrieved, random_items, union

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

METHOD, RANDOM, MATCHED, PIXEL = "method", "random", "class-matched random", "pixel cosine"


@dataclass(frozen=True)
class RemovalRule:
    """The rule that selects the training items to remove, given a method's rankings of all queries.

    Attributes:
        kind: `union`, all items in the top k of any query, as in the paper; or `most-retrieved`, the `count` items
            that are in the top k of most queries, so that every method removes equally many.
        k: items of each query that count as retrieved.
        count: how many are removed; not used by `union`.
    """

    kind: Literal["union", "most-retrieved"]
    k: int
    count: int

    @property
    def depth(self) -> int:
        """Return the number of top items that each query's ranking needs for this removal rule."""
        return self.k if self.kind == "union" else max(self.k, self.count)

    def removed(self, ranked: Ids, items: int) -> Ids:
        """Return the sorted training ids that this rule removes, given the rankings [m, depth] of all queries."""
        return union(ranked, self.k) if self.kind == "union" else most_retrieved(ranked, self.k, self.count, items)

    def shares(self, name: str) -> bool:
        """Return whether a control removes the same items for every method, so that its models are shared."""
        return name == PIXEL or (name != MATCHED and self.kind == "most-retrieved")


@dataclass(frozen=True)
class RemovalStudy:
    """The declarations of a task for the ground truth `removal`: what is removed, retrained and measured.

    Attributes:
        metric: name of the result, how far the quantity falls: `thinning`.
        quantity: name of what is measured of each picture: `thickness`.
        largest: name of the control that removes the items of which the quantity is largest: `thickest`.
        measure: the quantity of each of [n, H, W, C] pictures, [n]; NaN where it is not defined.
        item_values: the quantity of each training item, [n].
        classes: the class of each training item, [n], for the class-matched control.
        rule: which items are removed.
        seeds: the training seeds.
        pictures: seeds of the pictures that each model draws.
        training: how each model is trained, in words: `4000 steps`.
        least_items: a model is trained on no fewer.
        own_seed: the training seed of the task's own model, where that is what training on everything gives; else None.
    """

    metric: str
    quantity: str
    largest: str
    measure: Callable[[NDArray[np.uint8]], Floats]
    item_values: Floats
    classes: Ids
    rule: RemovalRule
    seeds: range
    pictures: range
    training: str
    least_items: int
    own_seed: int | None

    @property
    def controls(self) -> tuple[str, ...]:
        """Return the names of the controls: item sets chosen without the method, removed for comparison."""
        return (RANDOM, MATCHED, self.largest, PIXEL)


class Removable(ABC):
    """A mixin for loaded tasks on which the ground truth `removal` can be measured, by declaring a study."""

    @property
    @abstractmethod
    def removal(self) -> RemovalStudy:
        """Return the task's declaration of which items are removed, how models are retrained, and what is measured."""


class RemovalOptions(Options):
    """Options of the ground truth `removal`: none, because the task declares what is removed and measured."""


class Removal(GroundTruth[RemovalOptions]):
    """The ground truth `removal`: retrains without a method's top items and measures the change in the images."""

    name = "removal"
    summary = "trains without what a method retrieves, and measures what the new models draw"
    Options: ClassVar[type[RemovalOptions]] = RemovalOptions  # type: ignore[misc]

    def open(self, setting: TruthSetting) -> OpenRemovalTruth | None:
        """Return the removal experiment for a task that supports it (`Removable`), else None."""
        if not isinstance(setting.opened, Removable):
            return None
        return OpenRemovalTruth(setting, setting.opened.removal)


class OpenRemovalTruth(OpenGroundTruth):
    """The ground truth `removal` on one loaded task: removes items, retrains and measures generated images."""

    def __init__(self, setting: TruthSetting, study: RemovalStudy) -> None:
        self._setting = setting
        self._study = study
        self._pictures = DrawnPictures(study.pictures.start, len(study.pictures))
        self.depth = study.rule.depth
        sets = 2 + len(study.controls)  # those, the method's own, and nothing removed
        self.summary = (
            f"up to {sets} models of {study.training} a method, with {len(study.seeds)} seeds each;"
            " those in the cache are shared"
        )

    def jobs(self, outcome: Outcome) -> list[TrainingJob]:
        """Return the training jobs: on all items, without the method's items, and without each control's items."""
        removed = self._removed(outcome)
        chosen = [job for name in (METHOD, *self._study.controls) for job in self.jobs_of(name, removed)]
        return [*self._whole(), *chosen]

    def measure(self, outcome: Outcome, seed: int, stage: Stage) -> Effect:
        """Return how much the measured quantity of generated images falls when the method's items are removed."""
        study, removed = self._study, self._removed(outcome)
        jobs = {name: self.jobs_of(name, removed) for name in (METHOD, *study.controls)}
        before = self._values(self._whole())
        after = {name: self._values(group) for name, group in jobs.items()}
        fallen = {name: decrease(before, values) for name, values in after.items()}
        distinct = {tuple(jobs[name]): fallen[name].mean(axis=1) for name in jobs}
        noise = training_noise(np.stack([np.zeros(len(study.seeds)), *distinct.values()]))
        facts = {**self._retrieval_facts(outcome.ranked, removed), **self._quantity_facts(before, after)}
        return self._effect(fallen, noise, facts)

    def _effect(self, fallen: Mapping[str, Floats], noise: TrainingNoise | None, facts: Mapping[str, float]) -> Effect:
        study = self._study
        controls = [
            Control(
                name=name,
                result=result(study.metric, fallen[name], noise).model_copy(update={"per_query": []}),
                shared=study.rule.shares(name),
            )
            for name in study.controls
        ]
        value = {control.name: control.result.value for control in controls}
        own = result(study.metric, fallen[METHOD], noise)
        return Effect(
            metrics=[
                own.model_copy(update={"ceiling": value[study.largest], "random": value[RANDOM]}),
                result(f"{study.metric}-over-class-matched", fallen[METHOD] - fallen[MATCHED], noise),
            ],
            controls=controls,
            facts=facts,
        )

    def _removed(self, outcome: Outcome) -> Ids:
        items, least = len(self._study.classes), self._study.least_items
        removed = self._study.rule.removed(outcome.ranked, items)
        if items - len(removed) < least:
            raise AttrbenchError(
                f"{len(removed)} of {items} items would be removed, and fewer than a batch of {least} be left to train"
                " on: choose removal=most-retrieved, or a smaller top_k or removed"
            )
        return removed

    def _whole(self) -> list[TrainingJob]:
        """Return the jobs that train a model on the full training set, one for each training seed."""
        return [self._job(np.array([], np.int64), seed) for seed in self._study.seeds]

    def jobs_of(self, name: str, removed: Ids) -> list[TrainingJob]:
        """Return the jobs that train models without the items of the method or a control, one for each training seed.

        Args:
            name: `method`, or the name of a control.
            removed: [r] the items that the method removes.
        """
        return [self._job(self.choice(name, removed, seed), seed) for seed in self._study.seeds]

    def _job(self, removed: Ids, seed: int) -> TrainingJob:
        if not len(removed):
            own = seed == self._study.own_seed
            return training_job(self._setting, None, None if own else seed, self._pictures)
        kept = np.setdiff1d(np.arange(len(self._study.classes)), removed)
        return training_job(self._setting, kept, seed, self._pictures)

    def choice(self, name: str, removed: Ids, seed: int) -> Ids:
        """Return the sorted ids of the items that the method or a control removes in the run with this seed."""
        study, items = self._study, len(self._study.classes)
        if name == RANDOM:
            return random_items(len(removed), items, seed)
        if name == MATCHED:
            return class_matched(removed, study.classes, seed)
        if name == study.largest:
            return highest(study.item_values, len(removed))
        if name == PIXEL:
            return study.rule.removed(self._pixel_ranking, items)
        return removed

    @cached_property
    def _pixel_ranking(self) -> Ids:
        """Return the ids of training items ranked by pixel similarity to each query, [m, depth], for a control."""
        opened = self._setting.opened
        train, queries = _unit_rows(opened.train.images), _unit_rows(opened.queries.images)
        return np.concatenate([top_k(query[None] @ train.T, self.depth).ids for query in queries])

    def _values(self, jobs: Sequence[TrainingJob]) -> Floats:
        """Return what is measured (such as stroke thickness) of the images of each seed's model, [seeds, pictures]."""
        return np.stack([self._study.measure(measured(job)["images"]) for job in jobs])

    def _retrieval_facts(self, ranked: Ids, removed: Ids) -> dict[str, float]:
        study, items = self._study, len(self._study.classes)

        def overlap(name: str) -> float:
            other = self.choice(name, removed, study.seeds.start)
            return len(np.intersect1d(removed, other)) / max(1, len(removed))

        return {
            "removed": float(len(removed)),
            **hubness(ranked, study.rule.k, removed, items),
            f"among_the_{study.largest}": overlap(study.largest),
            "among_pixel_cosine": overlap(PIXEL),
        }

    def _quantity_facts(self, before: Floats, after: Mapping[str, Floats]) -> dict[str, float]:
        quantity = self._study.quantity
        return {
            "training_seeds": float(before.shape[0]),
            "pictures": float(before.shape[1]),
            "empty_pictures": float(np.isnan(np.stack([before, *after.values()])).sum()),
            f"{quantity}_before": float(np.nanmean(before)),
            f"{quantity}_after": float(np.nanmean(after[METHOD])),
            "ks": ks_statistic(before, after[METHOD]),
            "ks_random": ks_statistic(before, after[RANDOM]),
        }


def _unit_rows(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return each image's pixels scaled to [-1, 1], flattened and divided by their norm, [n, d]."""
    flat = images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    return flat
