"""The conformance check of a trainable task: its weights are a function of the items and the seed."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from attrbench.conformance.check_report import Finding, failed, passed, skipped
from attrbench.conformance.checked_task import TaskSubject
from attrbench.conformance.fault import one_line
from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.task import Trainable
from attrbench.errors import UsageError
from attrbench.store.fingerprint import fingerprint

Weights = list[np.ndarray]


def training(subject: TaskSubject) -> Finding:
    """Check that training again gives the same weights, and that another subset or another seed gives others."""
    check, task = "training", subject.request.task
    if not isinstance(task, Trainable):
        return skipped(check, "the task can't be trained again (attrbench.contracts.task.Trainable)")
    recipe = fingerprint(task.training_recipe())
    if not subject.retrain:
        return skipped(check, "four trainings would tell; --train does them")
    half = len(subject.train) // 2
    some, others = np.arange(half, dtype=np.int64), np.arange(half, 2 * half, dtype=np.int64)
    with tempfile.TemporaryDirectory(prefix="attrbench-train-", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        if refused := _taken(subject, place / "wrong"):
            return failed(check, refused, "raise UsageError for a subset that is empty, unsorted or out of range")
        first = _weights(subject, some, 1, place / "first")
        if not _equal(first, _weights(subject, some, 1, place / "again")):
            return failed(
                check,
                "two trainings on the same items with the same seed give other weights",
                "draw initial weights, batches and noise from the seed alone",
            )
        for what, subset, seed in (("another subset", others, 1), ("another seed", some, 2)):
            if _equal(first, _weights(subject, subset, seed, place / what)):
                return failed(
                    check,
                    f"a training with {what} gives the same weights",
                    "use both `subset` and `seed` in train(); the folder is new each time",
                )
    return passed(check, f"weights are a function of items and seed; recipe {recipe[:12]}")


def _taken(subject: TaskSubject, out: Path) -> str:
    """Return in words which wrong subset is taken for a training; empty if all are refused."""
    task, count = subject.request.task, len(subject.train)
    assert isinstance(task, Trainable)
    for what, subset in (("empty", []), ("unsorted", [1, 0]), ("out of range", [0, count])):
        try:
            task.train(np.array(subset, np.int64), 1, out, subject.workspace.device, _stop)
        except UsageError:
            continue
        except Exception as error:
            how = "is trained on" if isinstance(error, _Begun) else f"gives {one_line(error)}"
        else:
            how = "is trained on"
        return f"a subset that is {what} {how}"
    return ""


class _Begun(Exception):
    """Ends a training that should have been refused, at its first line of progress."""


def _stop(line: str) -> None:
    raise _Begun(line)


def _weights(subject: TaskSubject, subset: np.ndarray, seed: int, out: Path) -> Weights:
    """Return the weights of a training as arrays, in the order of the network's parameters."""
    task = subject.request.task
    assert isinstance(task, Trainable)
    folder = task.train(subset, seed, out, subject.workspace.device, lambda line: None)
    denoiser: Denoiser = task.trained(folder, replace(subject.workspace, cache=out.with_name(f"{out.name}-cache")))
    return [parameter.detach().cpu().float().numpy() for parameter in denoiser.module.parameters()]


def _equal(one: Weights, other: Weights) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
