"""The training of a task's subset models and collection of what they do to its queries; interrupted builds resume."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.executor import Executor
from attrbench.contracts.ground_truth import Measurement, Stage, TrainingJob, TruthSetting
from attrbench.contracts.task import Items, Trainable
from attrbench.errors import Damaged, UsageError
from attrbench.ground_truth.bank import BankFacts, BankPlan, SubsetBank, known_facts, sealed_bank
from attrbench.ground_truth.combined import Combined
from attrbench.ground_truth.losses import QueryLosses
from attrbench.ground_truth.redrawn import FEATURES, PIXELS, RedrawnQueries
from attrbench.ground_truth.retraining import VERSION as RETRAINING
from attrbench.ground_truth.retraining import (
    is_done,
    keep_measured,
    measured,
    run_trainings,
    training_job,
    use_opened_task,
)
from attrbench.ground_truth.subsets import draw_subset, leave_groups_out, membership
from attrbench.version import __version__

log = logging.getLogger("attrbench.ground_truth")


@dataclass(frozen=True)
class Code:
    """The version (digest and git revision) of the code that trained the subset models and measured their losses.

    Attributes:
        digest: of the sources.
        revision: of the checkout that they come from; None where there is none.
    """

    digest: str
    revision: str | None


_WORK = sorted(set(BankPlan.model_fields) - {"subsets", "seeds"})
"""What of a plan decides how each of its models is trained and measured."""


class BankBuild:
    """The training of a task's models on random subsets, one job for each, and the collection of their losses.

    Args:
        setting: the open task.
        plan: which models.
        keep_weights: whether the models' weights stay in the cache, for other measurements.

    Raises:
        UsageError: where the task has no training recipe.
    """

    def __init__(self, setting: TruthSetting, plan: BankPlan, keep_weights: bool = False) -> None:
        if not isinstance(setting.task, Trainable):
            raise UsageError(f"task {setting.task.meta.name} has no training recipe, so that it can have no bank")
        self._setting, self._plan, self._keep = setting, plan, keep_weights
        self._recipe = dict(setting.task.training_recipe())
        self._losses = QueryLosses(plan.steps, plan.draws, plan.noise_seed)
        self.subsets = subsets_of(plan, setting.opened.train)

    @cached_property
    def _measurement(self) -> Measurement:
        """Return what is measured of each model: losses, and distances where the model drew the queries itself."""
        return query_effects(self._setting, self._losses)

    @cached_property
    def jobs(self) -> list[TrainingJob]:
        """Return the training jobs, one for each of J subsets and S seeds, ordered by subset."""
        return [
            training_job(self._setting, self._chosen(subset), seed, self._measurement, self._keep)
            for subset in self.subsets
            for seed in range(self._plan.seeds)
        ]

    def _chosen(self, subset: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the subset of a training job, None for all items, as other ground truths ask for such a model."""
        return None if len(subset) == len(self._setting.opened.train) else subset

    def differences(self, bank: SubsetBank) -> list[str]:
        """Return what keeps this build from taking a bank's models, a phrase each; none where they are the same work.

        Numbers of subsets and seeds may differ.
        """
        theirs = bank.facts
        plans = ((name, getattr(theirs.plan, name), getattr(self._plan, name)) for name in _WORK)
        found = [
            f"{name.replace('_', ' ')} {there} there and {here} here" for name, there, here in plans if there != here
        ]
        train, queries = self._setting.opened.train.fingerprint, self._setting.opened.queries.fingerprint
        others = {
            "another training set": theirs.train != train,
            "other queries": theirs.queries != queries,
            "another recipe": theirs.recipe != self._recipe,
            f"retraining of version {theirs.retraining} there and {RETRAINING} here": theirs.retraining != RETRAINING,
        }
        return found + [phrase for phrase, differs in others.items() if differs]

    def take(self, bank: SubsetBank) -> int:
        """Keep the effects of this build's models that a bank holds, so that they are not trained; return how many.

        None are where there are `differences`.

        Raises:
            AttrbenchError: where the cache can't be written to.
        """
        facts = bank.facts
        if self.differences(bank):
            return 0
        taken = 0
        for row, number in enumerate(facts.numbers):
            for seed in range(facts.plan.seeds):
                if number < len(self.subsets) and seed < self._plan.seeds:
                    moved = dict(zip(facts.distances, bank.distances[row, seed].T, strict=True))
                    effect = {"losses": bank.losses[row, seed], **moved}
                    taken += keep_measured(self.jobs[number * self._plan.seeds + seed], effect)
        return taken

    def train(
        self,
        stage: Stage,
        limit: int | None = None,
        note: Callable[[str], None] | None = None,
        executor: Executor[Any] | None = None,
    ) -> int:
        """Train up to `limit` of the subset models that are not done yet; return how many are still missing.

        Args:
            stage: where progress is shown: one step a model.
            limit: train at most so many models; None for all.
            note: told how many models are there.
            executor: where models are trained; by default in this process.

        Raises:
            AttrbenchError: where a training fails.
        """
        use_opened_task(self._setting)
        missing = [job for job in self.jobs if not is_done(job)]
        if note is not None:
            note(f"{len(self.jobs) - len(missing)} of {len(self.jobs)} models are there")
        later = set() if limit is None else set(missing[limit:])
        run_trainings([job for job in self.jobs if job not in later], stage, executor)
        return sum(not is_done(job) for job in missing)

    def bank(self, code: Code) -> SubsetBank | None:
        """Return the collected losses of all subsets whose models are done; None if these are fewer than two."""
        per_subset = np.array([is_done(job) for job in self.jobs]).reshape(-1, self._plan.seeds)
        numbers = np.flatnonzero(per_subset.all(axis=1)).tolist()
        if len(numbers) < 2:
            return None
        jobs = np.array(self.jobs, dtype=object).reshape(-1, self._plan.seeds)[numbers]
        opened, meta = self._setting.opened, self._setting.task.meta
        effects = [[measured(job) for job in row] for row in jobs]
        distances = [name for name in (PIXELS, FEATURES) if name in effects[0][0]]
        facts = BankFacts(
            task=meta.name,
            version=meta.version,
            train=opened.train.fingerprint,
            queries=opened.queries.fingerprint,
            items=len(opened.train),
            plan=self._plan,
            numbers=numbers,
            distances=distances,
            recipe=self._recipe,
            retraining=RETRAINING,
            code=code.digest,
            revision=code.revision,
            attrbench=__version__,
        )
        return SubsetBank(
            losses=np.array([[effect["losses"] for effect in row] for row in effects]),
            distances=np.array([[_columns(effect, distances) for effect in row] for row in effects], np.float32),
            members=membership([self.subsets[number] for number in numbers], len(opened.train)),
            timesteps=np.array(self._losses.timesteps(opened.denoiser)),
            facts=facts,
        )


def subsets_of(plan: BankPlan, train: Items) -> list[NDArray[np.int64]]:
    """Return the [k] training items of each subset that a plan trains models on, in the order of their numbers.

    Raises:
        UsageError: where groups are to be left out and there are fewer than two.
    """
    if plan.kind == "leave-group-out":
        return leave_groups_out(train.groups)
    return [draw_subset(len(train), number, plan.subset_seed, plan.alpha, plan.kind) for number in range(plan.subsets)]


def query_effects(setting: TruthSetting, losses: QueryLosses) -> Combined:
    """Return the measurement of a retrained model's effect on the queries: their losses and, if drawn, distances."""
    drawn = setting.opened.queries.seeds is not None
    return Combined((losses, RedrawnQueries()) if drawn else (losses,))


def _columns(effect: Mapping[str, NDArray[Any]], names: Sequence[str]) -> NDArray[Any]:
    """Return named arrays [m] as the columns of one, [m, D]."""
    return np.stack([effect[name] for name in names], axis=1) if names else np.empty((len(effect["losses"]), 0))


def make_whole(path: Path, setting: TruthSetting) -> None:
    """Collect the losses in a task's bank again if its file in the cache is damaged or has no seal; trains nothing.

    Raises:
        Damaged: where it is, and not all measurements of its models are in the cache.
        AttrbenchError: where it can't be read or written.
    """
    if sealed_bank(path).whole() is not None:
        return
    name = setting.task.meta.name
    log.warning("subset losses %s are damaged or nothing vouches for them: collecting them again", path)
    before = known_facts(path)
    again = BankBuild(setting, before.plan).bank(Code(before.code, before.revision))
    if again is None or again.facts.numbers != before.numbers:
        raise Damaged(
            f"subset losses {path}: damaged, and not all of the models' losses are in the cache; run"
            f" 'attrbench ground-truth build {name}'"
        )
    again.write(path)
