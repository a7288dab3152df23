"""The ground truth `leave-k-out`: models trained without the k items that a method ranks first for a query.

For each of some queries a model is trained without the method's own top k, and its loss on the query and its picture
are compared with those of models that were trained without k random items of the query's group, and without k random
items of all. After Wang et al., "Data Attribution for Text-to-Image Models by Unlearning", 2024 (arXiv 2406.09408,
section 4.2), who compare with random removal; the control of the same group is ours: without it a method is paid for
finding the group alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.ground_truth import (
    Effect,
    GroundTruth,
    Measurement,
    OpenGroundTruth,
    Stage,
    TrainingJob,
    TruthSetting,
)
from attrbench.contracts.metric import Outcome
from attrbench.contracts.options import Options
from attrbench.contracts.record import MetricResult
from attrbench.contracts.task import Trainable
from attrbench.errors import AttrbenchError, Unavailable
from attrbench.ground_truth.build import query_effects
from attrbench.ground_truth.losses import QueryLosses
from attrbench.ground_truth.retraining import measured, training_job
from attrbench.metrics.intervals import mean_interval
from attrbench.metrics.removal import random_items

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
METHOD, MATCHED, RANDOM = "method", "same group", "random"
METRIC = "leave-k-out"
DETECTABLE = 1.96 + 0.84
"""Standard errors of a difference that a test at 5% finds with a power of 80%."""


class LeaveKOutOptions(Options):
    """Options of the ground truth `leave-k-out`: how many items are left out, for how many queries, and seeds."""

    k: int = Field(50, ge=1)
    """Items that are left out of the training for a query."""
    queries: int = Field(20, ge=2)
    """Queries that models are trained for, as many of each group as can be; all of them where the task has fewer."""
    seeds: int = Field(2, ge=1, le=100)
    """Training seeds: as many models for each set of items that is left out."""
    steps: int = Field(15, ge=1)
    """Timesteps of the losses."""
    draws: int = Field(100, ge=1)
    """Noises of the losses at each timestep."""


class LeaveKOut(GroundTruth[LeaveKOutOptions]):
    """The ground truth `leave-k-out`: retrains without a method's top k of each query; only where it is named."""

    name = "leave-k-out"
    summary = "trains without a query's own top k: rise of its loss, and change of its picture, over random removal"
    Options: ClassVar[type[LeaveKOutOptions]] = LeaveKOutOptions  # type: ignore[misc]
    by_default = False

    def open(self, setting: TruthSetting) -> OpenLeaveKOut | None:
        """Return the experiment on a task that can be trained again; None for one that can't.

        Raises:
            Unavailable: where a query has no group, or its group has fewer than k items.
        """
        return OpenLeaveKOut(setting, self.options) if isinstance(setting.task, Trainable) else None


class OpenLeaveKOut(OpenGroundTruth):
    """The ground truth `leave-k-out` on one loaded task: the models it trains, and their effects on their queries."""

    def __init__(self, setting: TruthSetting, options: LeaveKOutOptions) -> None:
        self._setting, self._options = setting, options
        train, queries = setting.opened.train, setting.opened.queries
        self._queries = chosen_queries(queries.groups, options.queries)
        self._group_of = [queries.groups[query] for query in self._queries]
        if "" in self._group_of:
            raise Unavailable(
                f"query {self._queries[self._group_of.index('')]} has no group, and random items of its group are what"
                " its top is compared with"
            )
        self._members = {group: _members(train.groups, group) for group in dict.fromkeys(self._group_of)}
        smallest = min(self._members, key=lambda group: len(self._members[group]))
        if len(self._members[smallest]) < options.k or options.k >= len(train):
            raise Unavailable(
                f"k={options.k} items can't be left out: of {len(train)} training items"
                f" {len(self._members[smallest])} are of the group '{smallest}' of a query; choose a smaller k"
            )
        self.depth = options.k
        shared = options.seeds * (2 + len(self._members))
        self.summary = (
            f"{len(self._queries) * options.seeds} models a method, one for each of {len(self._queries)} queries and"
            f" {options.seeds} training seeds, without the query's top {options.k}; {shared} that all methods share"
        )

    def jobs(self, outcome: Outcome) -> list[TrainingJob]:
        """Return the training jobs: on all items, and without each query's top k or random items in their place."""
        sets = [self._whole(), *(self._jobs(name, outcome) for name in (METHOD, MATCHED, RANDOM))]
        return list(dict.fromkeys(job for jobs in sets for of_seed in jobs for job in of_seed))

    def measure(self, outcome: Outcome, seed: int, stage: Stage) -> Effect:
        """Return how much more the loss rises, and the picture moves, without the top k than without random items."""
        effects = {name: self._effects(self._jobs(name, outcome)) for name in (METHOD, MATCHED, RANDOM)}
        whole = self._effects(self._whole())["losses"]
        rise = {name: of["losses"] / whole - 1 for name, of in effects.items()}
        over = {METRIC: rise[METHOD] - rise[MATCHED], f"{METRIC}-over-random": rise[METHOD] - rise[RANDOM]}
        over |= {f"{METRIC}-{x}": effects[METHOD][x] - effects[MATCHED][x] for x in effects[METHOD] if x != "losses"}
        results = [self._result(name, values, seed) for name, values in over.items()]
        return Effect(metrics=results, facts=self._facts(rise, over[METRIC]))

    def _whole(self) -> list[list[TrainingJob]]:
        """Return the jobs that train on all items, [seeds][queries], those of a seed all the same."""
        return [[self._job(None, seed)] * len(self._queries) for seed in self._seeds]

    def _jobs(self, name: str, outcome: Outcome) -> list[list[TrainingJob]]:
        """Return the jobs that train without the items that the method or a control chooses, [seeds][queries]."""
        places = range(len(self._queries))
        return [
            [self._job(self._left_out(name, outcome, place, seed), seed) for place in places] for seed in self._seeds
        ]

    def _left_out(self, name: str, outcome: Outcome, place: int, seed: int) -> Ids:
        """Return the k items that are left out for one of the queries in the training with a seed.

        Random items are drawn once for a seed, those of the same group once for a seed and group, so that methods and
        queries share their models.
        """
        k = self._options.k
        if name == RANDOM:
            return random_items(k, len(self._setting.opened.train), seed)
        if name == MATCHED:
            members = self._members[self._group_of[place]]
            return members[random_items(k, len(members), seed)]
        top = outcome.ranked[self._queries[place], :k]
        if len(top) < k or (top < 0).any():
            raise AttrbenchError(
                f"the ranking of query {self._queries[place]} names {int((top >= 0).sum())} items, and {k} are to be"
                " left out: give the method a deeper search, or leave-k-out a smaller k"
            )
        return top

    def _job(self, left_out: Ids | None, seed: int) -> TrainingJob:
        everything = np.arange(len(self._setting.opened.train))
        kept = None if left_out is None else np.setdiff1d(everything, left_out)
        return training_job(self._setting, kept, seed, self._measurement)

    @cached_property
    def _measurement(self) -> Measurement:
        return query_effects(self._setting, QueryLosses(self._options.steps, self._options.draws))

    @property
    def _seeds(self) -> range:
        return range(self._options.seeds)

    def _effects(self, jobs: Sequence[Sequence[TrainingJob]]) -> dict[str, Floats]:
        """Return loss and distances of each query under the model of its own job, [seeds, queries] by name."""
        found: dict[str, Floats] = {}
        read = {job: measured(job) for of_seed in jobs for job in of_seed}
        for name in next(iter(read.values())):
            values = [[read[job][name][query] for job, query in zip(of, self._queries, strict=True)] for of in jobs]
            found[name] = np.array(values, np.float64).reshape(len(jobs), len(self._queries), -1).mean(axis=2)
        return found

    def _result(self, name: str, values: Floats, seed: int) -> MetricResult:
        per_query = values.mean(axis=0)
        bounds = mean_interval(per_query, seed)
        low, high = (None, None) if bounds is None else bounds
        return MetricResult(
            metric=name,
            k=self._options.k,
            value=float(per_query.mean()),
            low=low,
            high=high,
            ceiling=None,
            random=0.0,
            per_query=per_query.tolist(),
            higher_is_better=True,
        )

    def _facts(self, rise: Mapping[str, Floats], over: Floats) -> dict[str, float]:
        error = float(over.mean(axis=0).std(ddof=1)) / math.sqrt(over.shape[1])
        return {
            "leave_k_out_rise": float(rise[METHOD].mean()),
            "leave_k_out_rise_same_group": float(rise[MATCHED].mean()),
            "leave_k_out_rise_random": float(rise[RANDOM].mean()),
            "leave_k_out_detectable": DETECTABLE * error,
            "leave_k_out_seeds": float(over.shape[0]),
            "leave_k_out_queries": float(over.shape[1]),
        }


def chosen_queries(groups: Sequence[str], count: int) -> list[int]:
    """Return the queries that models are trained for, sorted: the first of each group, the second of each, and so on.

    Of more queries, fewer are a part, so that their models count for both.

    Args:
        groups: [m] the group of each query.
        count: how many; all of them where there are fewer.
    """
    seen: Counter[str] = Counter()
    turns = []
    for query, group in enumerate(groups):
        turns.append((seen[group], query))
        seen[group] += 1
    return sorted(query for _, query in sorted(turns)[:count])


def _members(groups: Sequence[str], group: str) -> Ids:
    """Return the indices of the training items of a group."""
    return np.flatnonzero(np.array(groups, dtype=object) == group)
