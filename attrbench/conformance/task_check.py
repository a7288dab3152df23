"""The run of all conformance checks on one task, on a few of its items."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from attrbench.conformance import identity_checks as naming
from attrbench.conformance import item_checks as holding
from attrbench.conformance import model_checks as predicting
from attrbench.conformance import picture_checks as drawing
from attrbench.conformance.check_report import Finding, Report, failed, findings_of, passed, skipped
from attrbench.conformance.checked_task import TaskSubject
from attrbench.conformance.fault import one_line
from attrbench.conformance.run_check import run
from attrbench.conformance.training_check import training
from attrbench.contracts.task import Workspace
from attrbench.evaluation.config import make_folder
from attrbench.evaluation.devices import torch_device
from attrbench.evaluation.requests import TaskRequest
from attrbench.plugins.registry import Registry

CHECKS: dict[str, Callable[[TaskSubject], Finding]] = {
    "items": holding.items,
    "groups": holding.groups,
    "prompts": holding.prompts,
    "seeds": holding.seeds,
    "main-metric": holding.main_metric,
    "mode": predicting.mode,
    "shapes": predicting.shapes,
    "batches": predicting.batches,
    "repeats": predicting.repeats,
    "timesteps": predicting.timesteps,
    "parameters": predicting.parameters,
    "generate": drawing.generate,
    "trajectory": drawing.trajectory,
    "description": naming.description,
    "checkpoints": naming.checkpoints,
    "fingerprints": naming.fingerprints,
    "process": naming.process,
    "tuning": naming.tuning,
    "training": training,
}
NAMES = ("opens", *CHECKS, "run")
PAGE = "docs/how-to/check-task.md"


def check_task(
    registry: Registry,
    request: TaskRequest,
    cache: Path,
    device: str = "cpu",
    retrain: bool = False,
    tell: Callable[[Finding], None] = lambda finding: None,
) -> Report:
    """Run all conformance checks on one task, and return the report.

    Args:
        registry: the registry of plugins.
        request: the task with its options.
        cache: cache folder, where the task keeps what it draws or puts together; nothing else is written there.
        device: torch device string.
        retrain: whether a trainable task is trained four times; by default that check is skipped.
        tell: called with each finding as soon as it is known.

    Raises:
        AttrbenchError: where the device does not exist, or the cache can't be made.
    """
    workspace = Workspace(cache, torch_device(device))
    make_folder(cache, "--cache")
    started = time.perf_counter()
    findings: list[Finding] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for finding in _findings(TaskSubject(registry, request, workspace, retrain)):
            tell(finding)
            findings.append(finding)
    return Report(request.label, tuple(findings), time.perf_counter() - started, kind="task")


def _findings(subject: TaskSubject) -> Iterator[Finding]:
    started = time.perf_counter()
    try:
        count, asked, denoiser = len(subject.train), len(subject.queries), subject.denoiser
    except Exception as error:
        advice = "nothing else can be checked before training set, queries and denoiser can be had"
        yield failed("opens", one_line(error), advice)
        return
    seconds = time.perf_counter() - started
    kind = type(denoiser).__name__
    yield passed("opens", f"{count} training items, {asked} queries and a {kind} in {seconds:.1f} s")
    is_sound = True
    for finding in findings_of(CHECKS.items(), subject, PAGE):
        is_sound &= finding.status != "failed"
        yield finding
    if is_sound:
        yield from findings_of([("run", run)], subject, PAGE)
    else:
        yield skipped("run", "not before the other checks pass, for it would tell the same")
