"""A tiny task that every process can import and open, with copies of queries in its training set."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from attrbench.conformance.toy_task import OpenToy, ToyOptions, ToyTask
from attrbench.contracts.method import Method
from attrbench.contracts.options import Spec
from attrbench.contracts.task import TaskMeta, Workspace
from attrbench.evaluation.execute import Progress, compute
from attrbench.evaluation.feature_reader import FeatureReader
from attrbench.evaluation.jobs import TaskReference, use_world
from attrbench.evaluation.plan import make_plan
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import MethodRequest, RunSettings, TaskRequest
from attrbench.evaluation.world import TaskWorld
from attrbench.executors.inline import InlineExecutor, InlineOptions


class TinyTask(ToyTask):
    """The task of `attrbench check`, opened anew in each process; it travels to others without what it opened."""

    meta: TaskMeta = ToyTask.meta.model_copy(update={"name": "tiny"})

    def open(self, workspace: Workspace) -> OpenToy:
        """Open it."""
        return OpenToy(workspace, self.options.queries)


def tiny_task() -> TaskRequest:
    return TaskRequest(Spec("tiny"), TinyTask(ToyOptions()))


def settings(folder, cache="cache", **changes) -> RunSettings:
    result = RunSettings(out=folder / "records", cache=folder / cache, device="cpu", **changes)
    result.cache.mkdir(parents=True, exist_ok=True)
    return result


@dataclass(frozen=True)
class Computed:
    """What came of a plan: how far it got, and what its methods get."""

    world: TaskWorld
    progress: Progress

    def reader(self, label: str) -> FeatureReader:
        return FeatureReader(self.world, self.progress.features(label))


def request(method: Method) -> MethodRequest:
    return MethodRequest(Spec(method.name), method)


def compute_features(settings: RunSettings, methods, executor=None, reporter=None) -> Computed:
    """Compute the features of methods on the tiny task, in this process by default."""
    reference = TaskReference.of(tiny_task(), settings)
    world = reference.open()
    use_world(reference, world)
    plan = make_plan(world, [request(method) for method in methods])
    with closing(executor or InlineExecutor(InlineOptions())) as carrier:
        return Computed(world, compute(plan, world, reference, carrier, reporter or Silent()))


def shard_bytes(cache) -> dict[str, bytes]:
    """Return the content of every shard below a cache, by its path there."""
    folder = cache / "features"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}
