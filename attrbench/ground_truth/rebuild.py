"""The check of a bank of retrained models: train some of them again and compare their losses with those it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.executor import Executor
from attrbench.contracts.ground_truth import Stage, TruthSetting
from attrbench.ground_truth.bank import SubsetBank
from attrbench.ground_truth.build import BankBuild
from attrbench.ground_truth.retraining import measured, run_trainings, use_opened_task

TOLERANCE = 0.1
"""Error of a model's losses, in units of their spread between the bank's subsets, up to which it is reproduced."""


@dataclass(frozen=True)
class RebuiltModel:
    """A model of a bank that was trained again.

    Attributes:
        number: of its subset.
        seed: of its training.
        error: root mean square, over queries, of the difference of its losses (means over timesteps) from those in
            the bank, each in units of the standard deviation of the query's losses between subsets.
    """

    number: int
    seed: int
    error: float

    @property
    def is_same(self) -> bool:
        """Return whether its losses are those of the bank, within `TOLERANCE`."""
        return self.error <= TOLERANCE


def rebuild(
    setting: TruthSetting, bank: SubsetBank, count: int, stage: Stage, executor: Executor[Any] | None = None
) -> list[RebuiltModel]:
    """Train some models of a bank again, of subsets evenly spread and seeds in turn, and return how far they differ.

    Args:
        setting: the open task, with a cache that has none of the bank's models; else these are compared.
        bank: the bank, which fits the task.
        count: number of models.
        stage: where progress is shown.
        executor: where models are trained; by default in this process.

    Raises:
        UsageError: where the task has no training recipe.
        AttrbenchError: where a training fails.
    """
    numbers, seeds = bank.facts.numbers, bank.facts.plan.seeds
    work = BankBuild(setting, bank.facts.plan)
    places = np.unique(np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int))
    chosen = [(int(place), turn % seeds) for turn, place in enumerate(places)]
    jobs = [work.jobs[numbers[place] * seeds + seed] for place, seed in chosen]
    use_opened_task(setting)
    run_trainings(jobs, stage, executor)
    errors = (
        loss_error(bank, place, seed, measured(job)["losses"]) for (place, seed), job in zip(chosen, jobs, strict=True)
    )
    return [RebuiltModel(numbers[place], seed, error) for (place, seed), error in zip(chosen, errors, strict=True)]


def loss_error(bank: SubsetBank, place: int, seed: int, losses: NDArray[np.floating]) -> float:
    """Return how far the losses of a model, [m, T], are from those in a bank, as `RebuiltModel.error` has it.

    Args:
        bank: the bank.
        place: of the model's subset among those in the bank.
        seed: of its training.
        losses: of the model that was trained again.
    """
    means = bank.losses.astype(np.float64).mean(axis=3)  # [J, S, m]
    spread = means.mean(axis=1).std(axis=0, ddof=1)
    difference = losses.astype(np.float64).mean(axis=1) - means[place, seed]
    return float(np.sqrt(np.square(difference / spread).mean()))
