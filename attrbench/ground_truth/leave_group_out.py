"""The ground truth `leave-group-out`: a method's groups against models trained without one group each."""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.ground_truth import Effect, OpenGroundTruth, Stage
from attrbench.contracts.metric import Outcome
from attrbench.contracts.record import MetricResult, TrainingNoise
from attrbench.errors import AttrbenchError
from attrbench.ground_truth.bank import SubsetBank
from attrbench.ground_truth.bank_truth import BankTruth, bank_noise
from attrbench.metrics.group_effects import (
    MEASURES,
    POOLS,
    Floats,
    Measure,
    expected_by_chance,
    filled_by_first,
    group_scores,
    interval,
    model_parts,
    rise,
    seed_agreement,
    share_of_top_group,
    shares_of_top,
)

CRITERION = "group-top1"
"""The metric by which boards can rank."""
WHOLE = 0
"""Number of the models in a bank that saw all items."""
TOP = 10
"""Items at the top of a ranking among which the group of the largest effect is looked for."""


class LeaveGroupOut(BankTruth):
    """The ground truth `leave-group-out`: compares scores and tops of groups with models trained without each group."""

    name = "leave-group-out"
    summary = "scores summed over groups against models trained without one group each: top group, NDCG@3, Spearman"
    design = "groups"
    tuning_metrics = (*(f"group-{measure}" for measure in MEASURES), f"group-precision@{TOP}")

    def over(self, bank: SubsetBank) -> OpenLeaveGroupOut:
        """Return the comparison of group scores with the models of a bank.

        Raises:
            AttrbenchError: where the bank lacks the models that saw all items, or has those of a single group.
        """
        return OpenLeaveGroupOut(bank)


class OpenLeaveGroupOut(OpenGroundTruth):
    """The ground truth `leave-group-out` on one loaded task, with models trained without each of its groups."""

    depth = TOP
    needs_scores = True

    def __init__(self, bank: SubsetBank) -> None:
        if WHOLE not in bank.facts.numbers:
            raise AttrbenchError("leave-group-out: the models that saw all items are missing")
        if len(bank.losses) < 3:
            raise AttrbenchError("leave-group-out: models without at least two groups are needed to tell groups apart")
        self._bank = bank
        whole = bank.facts.numbers.index(WHOLE)
        self._others = np.delete(np.arange(len(bank.losses)), whole)
        self._groups = ~bank.members[self._others]  # [G, n]
        self._whole = whole
        seeds = bank.losses.shape[1]
        self.summary = f"models without one of {len(self._groups)} groups, {seeds} training seeds each, trained already"

    def measure(self, outcome: Outcome, seed: int, stage: Stage) -> Effect:
        """Return how well a method finds the groups whose removal raises the loss and moves the picture.

        By its scores summed over each group, where it scores all items; by the share of the top group among its first
        items in any case.
        """
        facts = {"groups": float(len(self._groups)), "group_seeds": float(self._bank.losses.shape[1])}
        top = self._precision(outcome.ranked, seed)
        if outcome.scores is None:
            lacking = "they need the scores of all items, and the method gives only the top"
            return Effect(top, facts=facts, notes=[f"no group-top1, -ndcg3 and -spearman: {lacking}"])
        pooled = {pool: group_scores(outcome.scores, self._groups, pool) for pool in POOLS}
        results = []
        for suffix, values in self._values.items():
            mean = rise(values).mean(axis=0)
            for measure in MEASURES if not suffix else ("top1",):
                name = f"group-{measure}{suffix}"
                result = _result(name, MEASURES[measure], pooled["sum"], values, seed)
                results.append(result)
                if result.ceiling is not None:
                    facts[f"{name.replace('-', '_')}_ceiling"] = result.ceiling
                for pool in POOLS[1:]:
                    value = MEASURES[measure](pooled[pool], mean).mean()
                    facts[f"{name.replace('-', '_')}_by_{pool}"] = float(value)
        return Effect(metrics=[*results, *top], facts=facts)

    def _precision(self, ranked: NDArray[np.int64], seed: int) -> list[MetricResult]:
        """Return the share of the group of the largest effect among the first items; none for a shorter ranking."""
        if ranked.shape[1] < TOP:
            return []
        sizes = self._groups.sum(axis=1)
        shares, by_chance = shares_of_top(ranked, self._groups, TOP), sizes / self._groups.shape[1]
        best = partial(filled_by_first, most=np.minimum(sizes, TOP) / TOP)
        found = []
        for suffix, values in self._values.items():
            effects = rise(values)
            result = _result(f"group-precision{suffix}", share_of_top_group, shares, values, seed)
            expected = share_of_top_group(np.broadcast_to(by_chance, shares.shape), effects.mean(axis=0))
            ceiling = seed_agreement(best, effects)
            update = {"k": TOP, "random": float(expected.mean()), "ceiling": ceiling}
            found.append(result.model_copy(update=update))
        return found

    @cached_property
    def _values(self) -> dict[str, Floats]:
        """Return what models did to the queries, those that saw all first, [1 + G, S, m], by the metric name's end.

        Losses for nothing; how far pictures moved for `-pixels` and `-features`.
        """
        bank, order = self._bank, [self._whole, *self._others]
        found = {"": bank.losses[order].astype(np.float64).mean(axis=3)}
        for i, name in enumerate(bank.facts.distances):
            found[f"-{name}"] = bank.distances[order][..., i].astype(np.float64)
        return found


def _result(name: str, measure: Measure, predicted: Floats, values_of_models: Floats, seed: int) -> MetricResult:
    effects = rise(values_of_models)
    mean = effects.mean(axis=0)
    values = measure(predicted, mean)
    bounds = interval(measure, predicted, effects, seed)
    low, high = bounds if bounds is not None else (None, None)
    return MetricResult(
        metric=name,
        k=None,
        value=float(values.mean()),
        low=low,
        high=high,
        ceiling=seed_agreement(measure, effects),
        random=float(expected_by_chance(measure, mean).mean()),
        per_query=values.tolist(),
        higher_is_better=True,
        noise=_noise(measure, predicted, values_of_models),
        criterion=name == CRITERION,
    )


def _noise(measure: Measure, predicted: Floats, values: Floats) -> TrainingNoise | None:
    """Return the error that other models would bring; None for one training seed."""
    trained, seeds = values.shape[:2]
    if seeds < 2:
        return None
    parts = model_parts(measure, predicted, values)
    return bank_noise(float(np.linalg.norm(parts)), parts, trained * (seeds - 1))
