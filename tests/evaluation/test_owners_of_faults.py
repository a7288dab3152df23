"""An error in somebody's plugin says whose it is."""

import time

import pytest

from attrbench.conformance.toy_task import drawn_images
from attrbench.contracts.metric import Metric
from attrbench.contracts.options import Options
from attrbench.contracts.task import Task, TaskMeta
from attrbench.errors import AttrbenchError, UsageError
from attrbench.evaluation import load
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.ground_truth_step import failed
from attrbench.evaluation.jobs import TaskReference
from attrbench.evaluation.requests import request_tasks
from attrbench.evaluation.score import metric_results
from attrbench.plugins.registry import Plugin, Registry
from tests.conformance.broken_tasks import waves, with_opened
from tests.registering import plugin_of
from tests.reports.test_leaderboard import noisy, record


class Raises(Metric):
    name = "raises"
    summary = "raises"

    def compute(self, outcome, cutoffs):
        raise KeyError("k")


class Closed(Task[Options]):
    Options = Options
    meta = TaskMeta(
        name="closed", version=1, summary="", model="m", dataset="d", license="l", train_items=1, memory="1 GB"
    )

    def open(self, workspace):
        raise ZeroDivisionError("by zero")


def test_a_metric_that_raises_is_named_with_its_package():
    registry, notes = Registry(), []
    registry.load(Plugin("p", "their-metrics", "1.2"), lambda: plugin_of(metrics=[Raises]))
    assert metric_results(registry, None, 0, notes.append) == []
    assert notes == ["metric raises of their-metrics 1.2 is left out: KeyError: 'k'"]


def test_an_unexpected_error_of_a_method_of_another_package_names_it():
    run = record("a", noisy(0.5))
    theirs = run.model_copy(update={"method": run.method.model_copy(update={"distribution": "their-methods 1.2"})})
    assert failed(theirs, ValueError("x")).error == "ValueError: x (method of their-methods 1.2)"
    assert failed(theirs, UsageError("give v")).error == "give v"
    assert failed(run, ValueError("x")).error == "ValueError: x"


def test_an_unexpected_error_of_a_task_names_its_class(tmp_path):
    (request,) = request_tasks(Registry(), [Closed])
    reference = TaskReference.of(request, RunSettings(tmp_path, tmp_path))
    with pytest.raises(AttrbenchError, match=r"task closed \(.*test_owners_of_faults.Closed\) can't be opened: Zero"):
        reference.open()


@pytest.mark.parametrize(
    ("part", "given", "queries"),
    [("train", "training set", None), ("queries", "queries", None), ("denoiser", "model", waves(drawn_images(2)))],
)
def test_an_unexpected_error_of_a_part_of_a_task_names_its_class(tmp_path, part, given, queries):
    def raises(self):
        raise KeyError("label 7")

    kind = with_opened(**({} if queries is None else {"queries": queries}), **{part: property(raises)})
    (request,) = request_tasks(Registry(), [kind])

    def asked_for_all():
        world = TaskReference.of(request, RunSettings(tmp_path, tmp_path)).open()
        assert world.outlines["query"].count == 2
        world.denoiser("final")

    with pytest.raises(AttrbenchError, match=rf"task waves v1 \(.*Open\) can't give its {given}: KeyError: 'label 7'"):
        asked_for_all()


def test_load_is_that_of_other_processes_alone(monkeypatch):
    clock = [(0.0, 100.0, 10.0), (0.4, 100.4, 10.1), (10.0, 118.0, 13.0), (10.0, 118.0, 30.0)]
    monkeypatch.setattr(load, "_now", lambda: clock.pop(0))
    others = load.OtherLoad()
    assert others.cores() is None  # too short
    assert others.cores() == 1.5  # 18 s of the machine, 3 of them our own, in 10 s
    assert others.cores() == 0


def test_the_processor_seconds_of_this_process_and_of_the_machine_go_up_with_work():
    before, started = load._now(), time.process_time()
    while time.process_time() - started < 0.3:
        pass
    wall, machine, own = (now - then for now, then in zip(load._now(), before, strict=True))
    assert wall > 0.2 and machine > 0.2 and 0.2 < own < 1
