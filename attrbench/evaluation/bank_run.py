"""Build a task's bank, the file with losses of models trained on random subsets of its training set."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrbench.contracts.executor import Executor
from attrbench.contracts.ground_truth import Design, TruthSetting
from attrbench.contracts.task import OpenTask, Task, Workspace
from attrbench.errors import AttrbenchError
from attrbench.evaluation.config import make_folder
from attrbench.evaluation.devices import torch_device
from attrbench.evaluation.progress import Reporter
from attrbench.evaluation.provenance import code_digest, provenance
from attrbench.ground_truth.bank import BankPlan, built_bank, read_bank
from attrbench.ground_truth.bank_truth import find_bank, find_shipped_bank
from attrbench.ground_truth.build import BankBuild, Code
from attrbench.ground_truth.rebuild import RebuiltModel, rebuild


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
    executor: Executor[Any] | None = None,
    anew: bool = False,
) -> BuiltBank:
    """Train missing models of a bank (one model per random subset and seed), and write complete subsets' losses.

    Models that the bank which ships with the task holds are taken from it, unless weights are to be kept.

    Args:
        task: the task; it must be `Trainable`.
        plan: which models.
        cache: folder of everything that can be computed again; runs on the task look for the bank there.
        device: torch device.
        reporter: who is told.
        limit: train at most so many models in this call.
        keep_weights: whether the models' weights stay in the cache.
        executor: where models are trained; by default in this process.
        anew: whether to train the models of a shipped bank as well.

    Raises:
        UsageError: where the task has no training recipe.
        AttrbenchError: where a training fails.
    """
    workspace = Workspace(cache, torch_device(device))
    opened = task.open(workspace)
    work = BankBuild(TruthSetting(task, opened, workspace), plan, keep_weights)
    if not anew and not keep_weights:
        _take_shipped(work, task, opened, plan.design, reporter)
    missing = work.train(reporter.stage, limit, reporter.note, executor)
    digest = code_digest(type(task).__module__)
    bank = work.bank(Code(digest, provenance(digest).git_revision))
    if bank is None:
        return BuiltBank(missing, len(work.subsets))
    path = built_bank(task, cache, plan.design)
    bank.write(path)
    return BuiltBank(missing, len(work.subsets), len(bank.facts.numbers), path)


def _take_shipped(work: BankBuild, task: Task[Any], opened: OpenTask, design: Design, reporter: Reporter) -> None:
    """Take models from the bank that ships with a task, where there is one that fits."""
    path = find_shipped_bank(task, design)
    if path is None:
        return
    try:
        bank = read_bank(path, task, opened, design)
    except AttrbenchError as error:
        reporter.note(f"nothing is taken from the bank that ships: {error}")
        return
    differences = work.differences(bank)
    if differences:
        reporter.note(f"no model is taken from {path.name}, which ships: {', '.join(differences)}")
        return
    taken = work.take(bank)
    if taken:
        reporter.note(f"{taken} models are taken from {path.name}, which ships")


def verify_bank(
    task: Task[Any],
    design: Design,
    cache: Path,
    device: str,
    reporter: Reporter,
    count: int,
    executor: Executor[Any] | None = None,
) -> list[RebuiltModel]:
    """Train some models of a task's bank again, in a folder of their own, and return how far their losses differ.

    Args:
        task: the task; it must be `Trainable`.
        design: which bank.
        cache: folder in which a bank may have been built, which comes before the one that ships.
        device: torch device.
        reporter: who is told.
        count: number of models.
        executor: where models are trained; by default in this process.

    Raises:
        UsageError: where the task has no training recipe.
        AttrbenchError: where it has no bank, or a training fails.
    """
    path = find_bank(task, cache, design)
    if path is None:
        raise AttrbenchError(
            f"task {task.meta.name} has no bank of the design '{design}': neither one that ships, nor one below {cache}"
        )
    bank = read_bank(path, task, task.open(Workspace(cache, torch_device(device))), design)
    reporter.note(f"{path}: {len(bank.facts.numbers)} subsets with {bank.facts.plan.seeds} seeds each")
    with _fresh_folder(cache, executor) as folder:
        workspace = Workspace(Path(folder), torch_device(device))
        return rebuild(TruthSetting(task, task.open(workspace), workspace), bank, count, reporter.stage, executor)


def _fresh_folder(cache: Path, executor: Executor[Any] | None) -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for models, removed after its `with` block; below the cache where other machines use it."""
    shared = executor is not None and executor.elsewhere
    if shared:
        make_folder(cache, "--cache", written=True)
    return tempfile.TemporaryDirectory(
        prefix="attrbench-rebuild-",
        suffix=f".part-{os.getpid()}",  # so that `attrbench cache gc` knows what a kill leaves
        dir=cache if shared else None,
        ignore_cleanup_errors=True,  # workers may still write after an interruption
    )
