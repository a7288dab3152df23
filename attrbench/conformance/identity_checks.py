"""Conformance checks of what tells a task from others: fingerprints, descriptions, checkpoints, tuning queries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from attrbench.conformance.check_report import Finding, failed, passed, skipped
from attrbench.conformance.checked_task import TaskSubject
from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.contracts.model_description import ModelDescription
from attrbench.contracts.task import Task, Workspace
from attrbench.errors import UsageError
from attrbench.evaluation.breaches import mode_breach
from attrbench.evaluation.requests import request_tasks
from attrbench.plugins.registry import registry
from attrbench.store.fingerprint import fingerprint
from attrbench.taskfile.names import is_file

GRID = TimestepGrid(steps=3)
HASH_SEED = "20241208"
"""Seed of hash() in the other process; this one has another, by chance or by PYTHONHASHSEED."""


def description(subject: TaskSubject) -> Finding:
    """Check that what is said of the model without loading it is so of the loaded model."""
    check, opened = "description", subject.opened
    said, found = _facts(opened.model_description), _facts(ModelDescription(subject.denoiser))
    for name, value in found.items():
        if said[name] != value:
            return failed(
                check,
                f"model_description says {name} {_short(said[name])}, the loaded model has {_short(value)}",
                "describe the model that denoiser loads: the same folder, the same options",
            )
    outline, queries = opened.query_outline, subject.queries
    if outline.is_drawn and (outline.fingerprint, outline.count) != (queries.fingerprint, len(queries)):
        return failed(
            check,
            f"query_outline promises {outline.count} queries, {outline.fingerprint[:12]}; they are {len(queries)},"
            f" {queries.fingerprint[:12]}",
            "give ItemsOutline.of(queries) once they are drawn",
        )
    if len(queries) > outline.count:
        return failed(
            check,
            f"query_outline promises {outline.count} queries at most, there are {len(queries)}",
            "give ItemsOutline.to_draw the largest number that there can be",
        )
    return passed(check, f"{', '.join(found)} are those of the loaded model")


def _facts(model: ModelDescription) -> dict[str, object]:
    shapes = model.parameters()
    return {
        "fingerprint": model.fingerprint,
        "latent_shape": tuple(model.latent_shape),
        "image_shape": tuple(model.image_shape),
        "takes_prompts": model.takes_prompts,
        "training_steps": model.training_steps,
        "sampling": dict(model.sampling),
        "parameters": fingerprint([[name, *shape] for name, shape in shapes.items()]),
        "timesteps": tuple(model.timesteps(GRID)),
        "checkpoints": [[name, model.fingerprint_at(name)] for name in model.checkpoints()],
    }


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def checkpoints(subject: TaskSubject) -> Finding:
    """Check that a checkpoint has other weights than the final ones, under a fingerprint of its own."""
    check, denoiser = "checkpoints", subject.denoiser
    names = denoiser.checkpoints()
    if not names:
        return skipped(check, "no weights from earlier in training, so methods over several can't run on it")
    prints = [denoiser.fingerprint, *(denoiser.fingerprint_at(name) for name in names)]
    if len(set(prints)) < len(prints):
        return failed(
            check,
            f"{len(prints)} weights have {len(set(prints))} fingerprints",
            "let _fingerprint_with tell them apart",
        )
    earlier = denoiser.at(names[0])
    if earlier.fingerprint != prints[1] or earlier.module is denoiser.module or _same_weights(earlier, denoiser):
        return failed(
            check,
            f"at({names[0]!r}) gives the final weights, or a fingerprint that fingerprint_at does not name",
            "load the checkpoint into a copy of the network",
        )
    if mode_breach(earlier) is not None:
        return failed(check, f"at({names[0]!r}) gives a network in train mode", "call eval() on it")
    return passed(check, f"{', '.join(names)}; the first has weights of its own")


def _same_weights(one: Denoiser, other: Denoiser) -> bool:
    pairs = zip(one.module.parameters(), other.module.parameters(), strict=True)
    return all(a.equal(b) for a, b in pairs)


def fingerprints(subject: TaskSubject) -> Finding:
    """Check that the task is the same when it is opened again: its fingerprints, keys, and state as JSON holds it."""
    return _reopened(subject, "fingerprints", identity(subject.fresh(), subject.workspace), "opened again")


def process(subject: TaskSubject) -> Finding:
    """Check that the task is the same in another process, where hash() and the order of sets differ."""
    check, spec = "process", subject.request.spec
    if not is_file(spec.name) and spec.name not in subject.registry.names("task"):
        return skipped(check, "the task is not registered, so another process can't open it by its name")
    arguments = [subject.request.label, str(subject.workspace.cache), str(subject.workspace.device)]
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import tell_identity; tell_identity()", *arguments],
        env={**os.environ, "PYTHONHASHSEED": HASH_SEED},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return failed(check, f"it can't be opened in another process: {why}", "register it in an installed package")
    there: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return _reopened(subject, check, there, "opened in another process")


def tell_identity() -> None:
    """Print the identity of the task that this process's arguments name (label, cache, device) as a line of JSON."""
    label, cache, device = sys.argv[1:]
    (request,) = request_tasks(registry(), [label])
    sys.stdout.write(f"{json.dumps(identity(request.task, Workspace(Path(cache), torch.device(device))))}\n")


def _reopened(subject: TaskSubject, check: str, there: dict[str, str], how: str) -> Finding:
    here = identity(subject.request.task, subject.workspace)
    for name, value in here.items():
        if there[name] != value:
            return failed(
                check,
                f"the {name} of the task {how} is {_short(there[name])} instead of {_short(value)}",
                "hash contents alone: no time, no path of a temporary folder, no id() or hash(), no order of a set",
            )
    return passed(check, f"fingerprints, items in their order and state are the same, {how}")


def identity(task: Task[Any], workspace: Workspace) -> dict[str, str]:
    """Return what tells a task from others as text: fingerprints of its items and model, keys of its items, its state.

    Raises:
        TypeError: for a state that JSON can't hold.
    """
    opened = task.open(workspace)
    train, queries = opened.train, opened.queries
    return {
        "state": json.dumps(task.state()),
        "training set's fingerprint": train.fingerprint,
        "queries' fingerprint": queries.fingerprint,
        "model's fingerprint": opened.model_description.fingerprint,
        "training items' order": fingerprint([train.keys, train.groups]),
        "queries' order": fingerprint([queries.trajectory_keys, queries.groups]),
    }


def tuning(subject: TaskSubject) -> Finding:
    """Check that the tuning queries are of the same model and training set, and that none of them is reported."""
    check, options = "tuning", subject.request.task.tuning
    if not options:
        return skipped(check, "the task has no queries to choose options on (Task.tuning)")
    try:
        task = subject.fresh(**options)
    except UsageError as error:
        return skipped(check, str(error))
    opened = task.open(subject.workspace)
    for what, theirs, ours in (
        ("training set", opened.train.fingerprint, subject.train.fingerprint),
        ("model", opened.model_description.fingerprint, subject.opened.model_description.fingerprint),
    ):
        if theirs != ours:
            return failed(
                check, f"with {options} the {what} is another one", "let the options change the queries alone"
            )
    if not opened.query_outline.is_drawn:
        return skipped(check, "its pictures are not drawn yet; 'attrbench tune' draws them")
    common = set(opened.queries.keys) & set(subject.queries.keys)
    if common:
        return failed(
            check,
            f"{len(common)} of {len(opened.queries)} tuning queries are reported queries too",
            "draw them with other seeds: options chosen on reported queries flatter the method",
        )
    return passed(check, f"{len(opened.queries)} other queries of the same model and training set")
