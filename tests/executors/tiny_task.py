"""A tiny task that every process can import and open, with copies of queries in its training set.

Its network is of torch alone: a process that needs no diffusers is ready for work in a third of the time.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

from torch import nn

from attrbench.contracts.method import Method
from attrbench.contracts.options import Options, Spec
from attrbench.contracts.task import Task, TaskMeta, Workspace
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.execute import Progress, compute
from attrbench.evaluation.feature_reader import FeatureReader
from attrbench.evaluation.jobs import TaskReference, use_world
from attrbench.evaluation.plan import make_plan
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import MethodRequest, TaskRequest
from attrbench.evaluation.world import TaskWorld
from attrbench.executors.inline import InlineExecutor, InlineOptions
from attrbench.store.fingerprint import fingerprint
from tests.methods.in_memory import Small, SmallTask, seeded, small_items

TRAIN, QUERIES, SHAPE = 24, 6, (3, 8, 8)
COPIES = {3: 12, 4: 10, 5: 17}
"""Index of a query -> index of the training item with the same picture."""


class TinyTask(Task[Options]):
    """Random pictures, opened anew in each process; it travels to others without what it opened."""

    meta = TaskMeta(
        name="tiny",
        version=1,
        summary="random pictures of 8x8 pixels",
        model="two convolutions, random weights",
        dataset="drawn with numpy",
        license="Apache-2.0",
        train_items=TRAIN,
        memory="1 GB",
    )
    Options = Options

    def open(self, workspace: Workspace) -> SmallTask:
        """Open it."""
        queries, train = small_items(QUERIES, SHAPE, seed=1), small_items(TRAIN, SHAPE)
        for query, item in COPIES.items():
            train.images[item] = queries.images[query]
        train = replace(train, fingerprint=fingerprint(train.images.tolist()))
        return SmallTask(Small(seeded(network), SHAPE), train, queries)


def network() -> nn.Module:
    """Two convolutions with a bend between them."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 3, 3, padding=1))


def tiny_task() -> TaskRequest:
    return TaskRequest(Spec("tiny"), TinyTask(Options()))


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
