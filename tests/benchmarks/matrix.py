"""Every method on digits-mini in one run, against its distinct passes with nothing kept of them, plus the scoring."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from attrbench.contracts.task import Workspace
from attrbench.evaluation.plan import make_plan
from attrbench.evaluation.progress import Advance
from attrbench.evaluation.requests import MethodRequest, RunSettings, request_methods, request_tasks
from attrbench.evaluation.task_run import TaskRun
from attrbench.evaluation.world import TaskWorld
from attrbench.features.pass_computation import PassComputation
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.gradients.samples import Split
from attrbench.gradients.sinks import NormSink
from attrbench.plugins.registry import registry
from attrbench.store.shards import Unit
from tests.benchmarks.timing import Figure

TASK = "digits-mini"


class _Stages:
    """A reporter that keeps the seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        started = time.perf_counter()
        yield lambda: None
        self.seconds[name] += time.perf_counter() - started

    def note(self, line: str) -> None:
        pass


def together() -> list[Figure]:
    """The whole matrix, model and queries not counted on either side."""
    found = registry()
    (task,), methods = request_tasks(found, [TASK]), request_methods(found, ["all"])
    with tempfile.TemporaryDirectory() as folder:
        settings = RunSettings(out=Path(folder), cache=Path(folder) / "cache")
        stages = _Stages()
        records = [result.record for result in TaskRun(found, task, methods, settings, stages).results()]
        done = [record for record in records if record.status == "complete"]
        factors = max((r.latency.cache for r in done if r.latency and "modules" in r.facts), default=0.0)
        passes = _passes_alone(settings, methods)
        spent = sum(stages.seconds.values()) - stages.seconds["model and queries"]
        least = passes + factors + stages.seconds["scoring"]
    against = "passes with norms only, factors, scoring"
    return [Figure(f"{len(done)} methods on {TASK}", spent, "s", against, least, spent / least, "<= 1.3")]


def _passes_alone(settings: RunSettings, methods: list[MethodRequest]) -> float:
    """Seconds of every distinct gradient pass that the methods need, if nothing but norms is taken of it."""
    (task,) = request_tasks(registry(), [TASK])
    opened = task.task.open(Workspace(settings.cache, torch.device("cpu")))
    total = 0.0
    world = TaskWorld(task.task.meta, opened, settings)
    stages = make_plan(world, methods).stages
    planned = {stage.computation: stage.units for stage in stages if isinstance(stage.computation, PassComputation)}
    train, queries = Split("train", opened.train), Split("query", opened.queries, one_by_one=True)
    passes = [(key.source, train if key.split == "train" else queries, units) for key, units in planned.items()]
    alone = [key.source for key in planned if PassComputation(key.source, "query") not in planned]
    products = [(source, Split("query", opened.queries), (Unit(0, world.count("query")),)) for source in alone]
    passes += products  # queries that the training set is multiplied with as it passes by
    for source, split, pieces in passes:
        work = GradientPass(source, opened.denoiser, split, settings.engine)
        for unit in pieces:
            started = time.perf_counter()
            work.run(unit, [NormSink()], lambda items, steps, outputs: None)
            total += time.perf_counter() - started
    return total
