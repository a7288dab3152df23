"""Jobs: units of a computation as frozen, picklable values, and the function that executes one in any process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch

from attrbench.contracts.computation import Computation, Prepared, SplitName, Unit
from attrbench.contracts.feature import Feature
from attrbench.contracts.job import Receipt
from attrbench.contracts.task import Items, OpenTask, Workspace
from attrbench.errors import UsageError
from attrbench.evaluation.owners import errors_of_task
from attrbench.evaluation.world import PreparedFor, TaskWorld
from attrbench.store.fingerprint import fingerprint
from attrbench.store.locks import Claims
from attrbench.store.read_only import read_also

if TYPE_CHECKING:
    from attrbench.contracts.denoiser import Denoiser
    from attrbench.contracts.executor import Executor
    from attrbench.contracts.model_description import ModelDescription
    from attrbench.evaluation.config import RunSettings
    from attrbench.evaluation.requests import MethodRequest, TaskRequest


@dataclass(frozen=True)
class TaskReference:
    """A picklable reference to the task of a run, with which another process can open it.

    Attributes:
        task: the task.
        settings: of the run.
        queries: pictures in the place of the task's own queries; None for those.
        key: tells runs apart: a process opens the task once for each.
        leases: whether jobs run on several machines, which lease what they compute.
    """

    task: TaskRequest
    settings: RunSettings
    queries: Items | None = None
    key: str = ""
    leases: bool = False

    @staticmethod
    def of(task: TaskRequest, settings: RunSettings, queries: Items | None = None) -> TaskReference:
        """Return a reference to the task for a new run, with a key of its own."""
        return TaskReference(task, settings, queries, uuid4().hex)

    def on(self, executor: Executor[Any]) -> TaskReference:
        """Return the reference with which an executor's processes open the task, on their device."""
        device = self.settings.device if executor.device is None else executor.device
        return replace(self, settings=replace(self.settings, device=device), leases=executor.elsewhere)

    def open(self) -> TaskWorld:
        """Load the task in this process and return it with the settings of the run."""
        read_also(self.settings.cache, self.settings.read_caches)
        workspace = Workspace(self.settings.cache, torch.device(self.settings.device))
        task = self.task.task
        with errors_of_task(self.task.label, task, "can't be opened"):
            opened = task.open(workspace)
        return TaskWorld(self.task.task.meta, with_queries(opened, self.queries), self.settings)


@dataclass(frozen=True)
class ComputeJob:
    """A job that computes one unit of a computation: shards of features for a range of items.

    Attributes:
        task: where.
        computation: what.
        features: what is wanted of it, with the split that each is stored for.
        fingerprints: of the stores of these features, as the plan has them.
        declarers: the methods that declared features whose computation calls them.
        unit: the items.
        wait: whether to wait where another process is at the same unit, and then compute what it did not.
    """

    task: TaskReference
    computation: Computation[Any]
    features: tuple[tuple[Feature[Any, Any], SplitName], ...]
    fingerprints: tuple[str, ...]
    declarers: tuple[tuple[Feature[Any, Any], MethodRequest], ...]
    unit: Unit
    wait: bool = False

    @property
    def title(self) -> str:
        """Return a phrase for messages: which computation, on which range of items."""
        return f"{self.computation.title}, items {self.unit.first} to {self.unit.last - 1}"


_worlds: dict[str, TaskWorld] = {}
"""The open task of this process: one at a time, as a network may fill the memory."""


def use_world(reference: TaskReference, world: TaskWorld) -> None:
    """Register a loaded task for the jobs of this process, so that they don't load it again."""
    _worlds.clear()
    _worlds[reference.key] = world


def forget_worlds() -> None:
    """Release the loaded tasks that are registered for jobs of this process."""
    _worlds.clear()


def execute(job: ComputeJob) -> Receipt:
    """Execute a compute job in this process and return its receipt; loads the task once for all jobs of a run."""
    world = _worlds.get(job.task.key)
    if world is None:
        world = job.task.open()
        use_world(job.task, world)
    world.declarers.update(job.declarers)
    prepared = _prepared(job, world)
    name = fingerprint(job.computation.identity(world))[:20]
    with Claims(world.cache / "claims" / name, job.task.leases).claim(job.unit.first, job.wait) as ours:
        if not ours:
            return Receipt(job, "busy")
        prepared.compute(job.unit)
    return Receipt(job, failures=prepared.failures)


def _prepared(job: ComputeJob, world: TaskWorld) -> Prepared[Any]:
    """Return a job's computation made ready to compute units, reused from an earlier job if it is the same."""
    last, wanted = world.prepared, frozenset(job.features)
    if last is not None and last.computation == job.computation and wanted <= last.features:
        return last.ready
    world.prepared = None  # lets go of what the last one held before the next takes memory
    stores = {(feature, split): world.store(feature, split) for feature, split in job.features}
    if tuple(store.fingerprint for store in stores.values()) != job.fingerprints:
        raise UsageError(
            f"{job.title}: task {world.task} has other images or weights in a worker process than where the run was"
            " planned; a task that draws pictures by itself needs the same number of threads there (OMP_NUM_THREADS)"
        )
    ready = job.computation.prepare(stores, world)
    world.prepared = PreparedFor(job.computation, wanted, ready)
    return ready


def with_queries(opened: OpenTask, queries: Items | None) -> OpenTask:
    """Return the loaded task, with its queries replaced if other ones are given."""
    return opened if queries is None else _OtherQueries(opened, queries)


class _OtherQueries(OpenTask):
    """A loaded task whose queries are replaced by others, such as a user's own images."""

    def __init__(self, opened: OpenTask, queries: Items) -> None:
        self._opened = opened
        self._queries = queries

    @property
    def train(self) -> Items:
        """Return the training set of the original task."""
        return self._opened.train

    @property
    def queries(self) -> Items:
        """Return the queries that replace the task's own."""
        return self._queries

    @property
    def denoiser(self) -> Denoiser:
        """Return the trained diffusion model of the original task."""
        return self._opened.denoiser

    @property
    def model_description(self) -> ModelDescription:
        """Return the original task's description of its model (hash, shapes), without loading the model."""
        return self._opened.model_description
