"""Build a task's bank, the file with losses of models trained on random subsets of its training set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrbench.contracts.ground_truth import TruthSetting
from attrbench.contracts.task import Task, Workspace
from attrbench.evaluation.devices import torch_device
from attrbench.evaluation.progress import Reporter
from attrbench.evaluation.provenance import code_digest, provenance
from attrbench.ground_truth.bank import BankPlan, built_bank
from attrbench.ground_truth.build import BankBuild, Code


@dataclass(frozen=True)
class BuiltBank:
    """The result of building a bank (losses of models trained on random subsets): missing models, and the file.

    Attributes:
        missing: number of models that are not trained yet.
        planned: number of subsets that the bank will have.
        subsets: number of subsets whose models are all there.
        path: file of the bank; None where fewer than two subsets are whole.
    """

    missing: int
    planned: int
    subsets: int = 0
    path: Path | None = None


def build_bank(
    task: Task[Any],
    plan: BankPlan,
    cache: Path,
    device: str,
    reporter: Reporter,
    limit: int | None = None,
    keep_weights: bool = False,
) -> BuiltBank:
    """Train missing models of a bank (one model per random subset and seed), and write complete subsets' losses.

    Args:
        task: the task; it must be `Trainable`.
        plan: which models.
        cache: folder of everything that can be computed again; runs on the task look for the bank there.
        device: torch device.
        reporter: who is told.
        limit: train at most so many models in this call.
        keep_weights: whether the models' weights stay in the cache.

    Raises:
        UsageError: where the task has no training recipe.
    """
    workspace = Workspace(cache, torch_device(device))
    work = BankBuild(TruthSetting(task, task.open(workspace), workspace), plan, keep_weights)
    missing = work.train(reporter.stage, limit, reporter.note)
    digest = code_digest(type(task).__module__)
    bank = work.bank(Code(digest, provenance(digest).git_revision))
    if bank is None:
        return BuiltBank(missing, len(work.subsets))
    path = built_bank(task, cache, plan.design)
    bank.write(path)
    return BuiltBank(missing, len(work.subsets), len(bank.facts.numbers), path)
