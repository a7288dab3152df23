"""Training of models on subsets of a training set, keeping a measurement of each; interrupted runs resume.

What is kept of a model lies under a name that covers everything that decides it: training items, subset, seed, recipe
and measurement. Whoever asks for the same finds it. The weights themselves are kept only where that is asked for.
Several processes may work on one cache: each takes models that no other is at.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.executor import Executor
from attrbench.contracts.ground_truth import RETRAINED, Measurement, Stage, TrainingJob, TruthSetting
from attrbench.contracts.job import Receipt
from attrbench.contracts.task import OpenTask, Trainable, Workspace
from attrbench.errors import AttrbenchError, Damaged
from attrbench.executors.inline import InlineExecutor, InlineOptions
from attrbench.store.artifacts import Artifact, cache_errors, write_arrays
from attrbench.store.fingerprint import fingerprint

log = logging.getLogger("attrbench.ground_truth")

BATCH = 64
"""Pictures drawn at once."""
VERSION = 2
"""Raised whenever the same job gives other numbers."""
ATTEMPTS = 3
"""How often the training of one model may fail."""


def training_job(
    setting: TruthSetting,
    subset: NDArray[np.int64] | None,
    seed: int | None,
    measurement: Measurement,
    keep_weights: bool = False,
) -> TrainingJob:
    """Return the job that trains one model on a subset, with the cache file for its measurement.

    Args:
        setting: the open task.
        subset: [k] sorted indices of the training items that the model sees; None for all of them.
        seed: of the training; None together with no subset: the task's own model.
        measurement: what is kept.
        keep_weights: whether the model's weights are kept as well.
    """
    task, opened, workspace = setting.task, setting.opened, setting.workspace
    indices = None if subset is None else tuple(subset.tolist())
    own = indices is None and seed is None
    recipe = dict(task.training_recipe()) if isinstance(task, Trainable) else {}
    model = {
        "version": VERSION,
        "train": opened.train.fingerprint,
        "subset": indices,
        "seed": seed,
        "recipe": recipe or [task.meta.name, task.meta.version],
        "model": opened.denoiser.fingerprint if own else None,
    }
    folder = workspace.cache / RETRAINED
    path = folder / f"{fingerprint({**model, 'measurement': measurement.identity(opened)})[:20]}.safetensors"
    weights = folder / f"model-{fingerprint(model)[:20]}"
    return TrainingJob(task, indices, seed, measurement, path, weights, workspace, keep_weights)


def _artifact(job: TrainingJob) -> Artifact:
    return Artifact(job.path, "retrained model", job.title)


def is_done(job: TrainingJob) -> bool:
    """Return whether a training job's measurement is in the cache and its checksum is right."""
    return _artifact(job).found() is not None


def measured(job: TrainingJob) -> dict[str, NDArray[Any]]:
    """Return the arrays that a finished training job measured, such as losses or images, by name."""
    found = _artifact(job).found()
    return load_file(job.path if found is None else found.path)


def keep_measured(job: TrainingJob, arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Keep what was measured elsewhere of a job's model, unless the job is done; return whether it was kept.

    Args:
        job: the training job.
        arrays: what its measurement gives.

    Raises:
        AttrbenchError: where the cache can't be written to.
    """
    artifact = _artifact(job)
    with cache_errors(job.path.parent):
        job.path.parent.mkdir(parents=True, exist_ok=True)
    with artifact.lock(leases=job.leases):
        if artifact.found() is not None:
            return False
        artifact.write(lambda part: write_arrays(part, {name: np.ascontiguousarray(a) for name, a in arrays.items()}))
    return True


def run_trainings(jobs: Iterable[TrainingJob], stage: Stage, executor: Executor[Any] | None = None) -> None:
    """Run the unfinished training jobs, each once; those that other processes are running come last.

    Args:
        jobs: the jobs, with repeats or not.
        stage: where progress is shown: one step a model.
        executor: where they run; by default in this process.

    Raises:
        AttrbenchError: where a job failed `ATTEMPTS` times; what others made is kept.
    """
    executor = InlineExecutor(InlineOptions()) if executor is None else executor
    missing = []
    for job in (_on(job, executor) for job in dict.fromkeys(jobs)):
        if is_done(job):
            _drop_half(job)
        else:
            missing.append(job)
    if not missing:
        return
    attempts: Counter[str] = Counter()
    with stage("retraining", len(missing)) as advance:
        while missing:
            left: list[TrainingJob] = []
            for receipt in executor.run(missing, train_subset):
                job = receipt.job
                if receipt.state == "busy":
                    left.append(replace(job, wait=True))
                elif receipt.state == "failed":
                    attempts[str(job.path)] += 1
                    if attempts[str(job.path)] >= ATTEMPTS:
                        raise AttrbenchError(f"{job.title}: {receipt.error}")
                    left.append(job)
                else:
                    advance()
            missing = left


def _on(job: TrainingJob, executor: Executor[Any]) -> TrainingJob:
    """Return a job as an executor's processes do it: on their device, with leases if they are on several machines."""
    device = job.workspace.device if executor.device is None else torch.device(executor.device)
    return replace(job, workspace=replace(job.workspace, device=device), leases=executor.elsewhere)


def train_subset(job: TrainingJob) -> Receipt:
    """Train and measure the model of a job in this process, unless it is done, and return the job's receipt.

    A training that was cut off goes on from the last state that the task's recipe keeps on disk. The receipt says
    `busy` where another process is at the same job and `job.wait` is false.

    Raises:
        AttrbenchError: where the cache can't be written to, or the task has no recipe.
    """
    artifact = _artifact(job)
    with cache_errors(job.path.parent):
        job.path.parent.mkdir(parents=True, exist_ok=True)
    with artifact.lock(job.wait, job.leases) as ours:
        if not ours:
            return Receipt(job, "busy")
        if artifact.whole() is None:
            artifact.report_damage()
            _train_and_measure(job, artifact)
    return Receipt(job)


def _train_and_measure(job: TrainingJob, artifact: Artifact) -> None:
    opened, weights = _opened_task(job), _weights(job)
    with weights.lock(leases=job.leases):  # another process may be at another measurement of the same model
        denoiser = _model(job, opened, weights)
        arrays = job.measurement.measure(denoiser, opened)
        artifact.write(lambda part: write_arrays(part, arrays))
        if not job.keep_weights:
            weights.drop()


def _weights(job: TrainingJob) -> Artifact:
    """Return the folder of the trained weights of a job: sealed once training has ended, and then not trained again."""
    return Artifact(job.weights, "retrained weights", job.title)


def _drop_half(job: TrainingJob) -> None:
    """Remove what a kill left of the weights of a measured model; whole ones were kept for other measurements.

    Another process may be training them at the moment, for a measurement of its own.
    """
    weights = _weights(job)
    with weights.lock(wait=False, leases=job.leases) as ours:
        if ours and weights.whole() is None:
            weights.drop()


def _model(job: TrainingJob, opened: OpenTask, weights: Artifact) -> Denoiser:
    """Return the trained model of a job, training it on the job's subset unless that was finished earlier."""
    if job.subset is None and job.seed is None:
        return opened.denoiser
    if not isinstance(job.task, Trainable):
        raise AttrbenchError(f"task {job.task.meta.name} has no training recipe, so that no subset can be trained on")
    if weights.is_there() and weights.whole() is None:
        weights.report_damage()
        weights.drop()
    folder = _trained(job, job.task, weights.path)
    if weights.whole() is None:
        weights.adopt()
    return job.task.trained(folder, job.workspace)


def _trained(job: TrainingJob, task: Trainable, folder: Path) -> Path:
    """Train the model of a job in a folder, unless that was finished; anew, if what was left there is damaged."""
    subset = None if job.subset is None else np.array(job.subset, np.int64)

    def report(line: str) -> None:
        log.debug("%s: %s", job.title, line)

    try:
        return task.train(subset, job.seed, folder, job.workspace.device, report)
    except Damaged as damage:
        log.warning("%s: %s: training it again", job.title, damage)
        shutil.rmtree(folder)
        return task.train(subset, job.seed, folder, job.workspace.device, report)


_opened: dict[str, OpenTask] = {}
"""The open task of this process: one at a time, as a network may fill the memory."""


def use_opened_task(setting: TruthSetting) -> None:
    """Register a loaded task, so that training jobs in this process use it instead of loading it again."""
    _opened.clear()
    _opened[_key(setting.task, setting.workspace)] = setting.opened


def _opened_task(job: TrainingJob) -> OpenTask:
    key = _key(job.task, job.workspace)
    if key not in _opened:
        use_opened_task(TruthSetting(job.task, job.task.open(job.workspace), job.workspace))
    return _opened[key]


def _key(task: Any, workspace: Workspace) -> str:
    options = task.options.model_dump(mode="json")
    where = [str(workspace.cache), str(workspace.device)]
    return fingerprint([task.meta.name, task.meta.version, options, task.state(), where])


@dataclass(frozen=True)
class DrawnPictures(Measurement):
    """A measurement of a retrained model: the images it generates without prompts, from consecutive seeds.

    Attributes:
        first_seed: of the noise that the first picture starts from; the others count on from there.
        count: number of pictures.
    """

    first_seed: int
    count: int

    def identity(self, opened: OpenTask) -> object:
        """Return the seeds that decide the generated images, for the measurement's cache key."""
        return ["pictures", self.first_seed, self.count]

    def measure(self, denoiser: Denoiser, opened: OpenTask) -> Mapping[str, NDArray[Any]]:
        """Return {"images": [count, H, W, C] uint8}, the images that the model generates for these seeds."""
        return {"images": draw(denoiser, range(self.first_seed, self.first_seed + self.count))}


def draw(denoiser: Denoiser, seeds: Sequence[int], prompts: Sequence[str] | None = None) -> NDArray[np.uint8]:
    """Generate an image for each seed, with its prompt unless the model takes none; return [m, H, W, C] uint8."""
    prompts = [""] * len(seeds) if prompts is None else prompts
    parts = [slice(first, first + BATCH) for first in range(0, len(seeds), BATCH)]
    return np.concatenate([denoiser.generate(prompts[part], seeds[part]) for part in parts])
