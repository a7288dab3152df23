"""Execute a plan: run the jobs of each stage through an executor until every shard is computed or a method fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from attrbench.contracts.computation import Unit
from attrbench.contracts.executor import Executor
from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.job import Receipt
from attrbench.errors import FeatureFailed, Unavailable, UsageError, error_line
from attrbench.evaluation.jobs import ComputeJob, TaskReference, execute
from attrbench.evaluation.plan import Plan, Stage
from attrbench.evaluation.progress import Reporter
from attrbench.evaluation.world import TaskWorld

ATTEMPTS = 3
"""How often a job may fail before what it brings is given up."""


@dataclass
class Progress:
    """The state of a plan during execution: the plan, and the methods that failed, with their errors.

    Attributes:
        plan: the plan, which does not change.
        given_up: why a method can't go on, by label.
        repair: computes what is missing by now, such as a shard whose bytes changed on the disk after it was computed.
    """

    plan: Plan
    given_up: dict[str, Exception] = field(default_factory=dict)
    repair: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.given_up |= self.plan.faults

    def features(self, label: str) -> FeatureRequest:
        """Return the features that a method declared; raise its error if the method has failed."""
        if label in self.given_up:
            raise self.given_up[label]
        return self.plan.requests[label]

    def give_up(self, stage: Stage, feature: object, error: Exception) -> None:
        """Mark the methods that need one feature of a stage as failed, with the error."""
        for (wanted, _), labels in stage.serves.items():
            if wanted == feature:
                for label in labels:
                    self.given_up.setdefault(label, error)

    def give_up_stage(self, stage: Stage, error: Exception) -> None:
        """Mark all methods for which a stage computes features as failed, with the error."""
        for label in stage.methods:
            self.given_up.setdefault(label, error)


def compute(
    plan: Plan, world: TaskWorld, reference: TaskReference, executor: Executor[Any], reporter: Reporter
) -> Progress:
    """Compute all missing shards of features of a plan, stage by stage; methods whose features fail are given up.

    Args:
        plan: what to do.
        world: the open task, in this process.
        reference: how other processes open it.
        executor: where jobs run.
        reporter: who is told.
    """
    progress, reference = Progress(plan), reference.on(executor)

    def compute_missing() -> None:
        try:
            for stage in plan.stages:
                try:
                    _Carrier(stage, world, reference, executor, reporter, progress).carry()
                except (Unavailable, UsageError, FeatureFailed) as error:  # the other stages go on
                    progress.give_up_stage(stage, error)
        finally:
            world.prepared = None

    progress.repair = compute_missing
    compute_missing()
    return progress


@dataclass
class _Carrier:
    """A runner of the jobs of one stage of a plan, which repeats jobs that failed."""

    stage: Stage
    world: TaskWorld
    reference: TaskReference
    executor: Executor[Any]
    reporter: Reporter
    progress: Progress

    def carry(self) -> None:
        """Run the jobs of the stage through the executor until all of its shards are complete."""
        wanted = self.stage.wanted(self.progress.given_up)
        for store in wanted.values():
            store.touch()  # what is planned is in use, whatever `attrbench cache gc` may want to remove meanwhile
        computation = self.stage.computation
        missing = [unit for unit in self.stage.units if computation.lacks(unit, wanted, self.world)]
        if not missing:
            return
        with self.reporter.stage(computation.title, len(missing)) as advance:
            attempts: Counter[Unit] = Counter()
            busy: list[Unit] = []
            while missing or busy:
                jobs = [self._job(unit) for unit in missing] or [replace(self._job(unit), wait=True) for unit in busy]
                if not any(job.features for job in jobs):
                    return  # the methods that wanted them were given up
                busy = busy if missing else []
                missing = []
                for receipt in self.executor.run(jobs, execute):
                    unit = receipt.job.unit
                    if receipt.state == "busy":
                        busy.append(unit)
                    elif receipt.state == "failed":
                        attempts[unit] += 1
                        self._check(receipt, attempts[unit])
                        missing.append(unit)
                    else:
                        self._note_failures(receipt)
                        advance()

    def _job(self, unit: Unit) -> ComputeJob:
        stores = self.stage.wanted(self.progress.given_up)
        wanted, fingerprints = tuple(stores), tuple(store.fingerprint for store in stores.values())
        known = self.progress.plan.declarers
        declarers = tuple((feature, known[feature]) for feature, _ in wanted if feature in known)
        return ComputeJob(self.reference, self.stage.computation, wanted, fingerprints, declarers, unit)

    def _note_failures(self, receipt: Receipt) -> None:
        for feature, error in receipt.failures.items():
            self.progress.give_up(self.stage, feature, error)

    def _check(self, receipt: Receipt, attempts: int) -> None:
        """Raise the error of a failed job if repeating it would not help, or it failed too often."""
        assert receipt.error is not None
        if isinstance(receipt.error, Unavailable | UsageError | FeatureFailed):
            raise receipt.error
        title, reason = receipt.job.title, error_line(receipt.error)
        if attempts >= ATTEMPTS:
            raise FeatureFailed(f"{title}: failed {attempts} times; the last time: {reason}")
        self.reporter.note(f"{title}: {reason}; trying again")
