"""A task may measure rankings by training again; the run gives it the rankings and puts what it says in the record."""

import numpy as np
import pytest

from attrbench.conformance.toy_task import QUERIES, TRAIN, OpenToy, ToyTask
from attrbench.contracts.ground_truth import Counterfactual, Effect
from attrbench.contracts.options import Spec
from attrbench.contracts.record import Control, MetricResult
from attrbench.errors import AttrbenchError
from attrbench.evaluation import ground_truth_step as retraining
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import RunSettings, TaskRequest, request_methods
from attrbench.evaluation.task_run import TaskRun
from attrbench.plugins.registry import load_registry


def result(value):
    return MetricResult(
        metric="change",
        k=None,
        value=value,
        low=None,
        high=None,
        ceiling=None,
        random=None,
        per_query=[value],
        higher_is_better=True,
    )


class Change(Counterfactual):
    """Says how many items it was shown."""

    depth = 20
    summary = "nothing is trained"

    def __init__(self, fault=None):
        self.fault, self.seen = fault, []

    def measure(self, ranked, seed, stage):
        self.seen.append((ranked, seed))
        if self.fault is not None:
            raise self.fault
        with stage("training", 1) as advance:
            advance()
        return Effect([result(float(ranked.shape[1]))], [Control(name="none", result=result(0.0))], {"left": np.nan})


@pytest.fixture
def toy(monkeypatch):
    """Runs `random` on the toy task with a counterfactual."""

    def run(out, counterfactual, **settings):
        monkeypatch.setattr(OpenToy, "counterfactual", property(lambda self: counterfactual))
        registry = load_registry()
        request = TaskRequest(Spec("attrbench-check", {}), ToyTask(ToyTask.Options()))
        chosen = RunSettings(out=out, cache=out / "cache", **settings)
        (done,) = TaskRun(registry, request, request_methods(registry, ["random"]), chosen, Silent()).results()
        return done.record

    return run


def test_it_gets_the_rankings_of_all_queries_and_its_results_come_first(toy, tmp_path):
    change = Change()
    record = toy(tmp_path, change, seed=3)
    ((ranked, seed),) = change.seen
    assert ranked.shape == (QUERIES, TRAIN) and ranked.dtype == np.int64 and seed == 3
    assert all(sorted(row) == list(range(TRAIN)) for row in ranked.tolist())
    assert record.status == "complete" and record.metrics[0] == result(TRAIN)
    assert record.metric("detection-rate@5") is not None
    assert [control.name for control in record.controls] == ["none"]
    assert "left" not in record.facts  # what JSON can't hold


def test_the_record_keeps_no_deeper_ranking_than_others_do(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(retraining, "MAX_DEPTH", 5)
    record = toy(tmp_path, Change())
    assert {len(ids) for ids in record.ranking} == {5}


@pytest.mark.parametrize("fault", [AttrbenchError("too shallow"), ValueError("a bug")])
def test_one_that_fails_leaves_a_failed_record_with_what_was_measured(toy, tmp_path, fault):
    record = toy(tmp_path, Change(fault))
    assert record.status == "failed"
    assert record.error == ("too shallow" if isinstance(fault, AttrbenchError) else "ValueError: a bug")
    assert record.metric("detection-rate@5") is not None and record.metric("change") is None


def test_limited_runs_are_not_measured_by_it(toy, tmp_path):
    change = Change()
    record = toy(tmp_path, change, limit_train=10)
    assert record.status == "limited" and not change.seen and record.metric("change") is None
