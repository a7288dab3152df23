"""A run asks every ground truth that applies to its task, and puts what it says of a method into the record."""

import numpy as np
import pytest

from attrbench.conformance.toy_task import QUERIES, TRAIN, ToyTask
from attrbench.contracts.ground_truth import Effect, GroundTruth, OpenGroundTruth
from attrbench.contracts.options import Options, Spec
from attrbench.contracts.record import Control, MetricResult
from attrbench.errors import AttrbenchError, Unavailable, UsageError
from attrbench.evaluation import ground_truth_step
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import TaskRequest, request_methods
from attrbench.evaluation.task_run import TaskRun
from attrbench.plugins.registry import Plugin, load_registry
from tests.registering import plugin_of


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


class Change(OpenGroundTruth):
    """Says how many items it was shown."""

    depth = 20
    summary = "nothing is trained"

    def __init__(self, fault=None):
        self.fault, self.seen = fault, []

    def measure(self, outcome, seed, stage):
        self.seen.append((outcome, seed))
        if self.fault is not None:
            raise self.fault
        with stage("training", 1) as advance:
            advance()
        width = float(outcome.ranked.shape[1])
        return Effect([result(width)], [Control(name="none", result=result(0.0))], {"left": np.nan}, ["looked at"])


class ChangeOptions(Options):
    width: int = 1
    """An option."""


def truth(opened, label="change", default=True, state=None):
    """A ground truth that opens as `opened`, or raises it."""

    class Registered(GroundTruth[ChangeOptions]):
        name = label
        summary = "a toy"
        Options = ChangeOptions
        by_default = default

        def open(self, setting):
            if isinstance(opened, Exception):
                raise opened
            assert setting.opened.train is not None and setting.task.meta.name == "attrbench-check"
            return opened

        def state(self, task, cache):
            return state

    return Registered


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


def toy(out, *truths, method="random", notes=None, **settings):
    """The record of a method on the toy task with these ground truths registered."""
    (done,) = toy_run(out, *truths, method=method, notes=notes, **settings).results()
    return done.record


def toy_run(out, *truths, method="random", notes=None, **settings):
    registry = load_registry()
    plugin = Plugin("toys", "tests", "0")
    registry.load(plugin, lambda: plugin_of(ground_truths=truths))
    assert plugin.error is None
    request = TaskRequest(Spec("attrbench-check", {}), ToyTask(ToyTask.Options()))
    chosen = RunSettings(out=out, cache=out / "cache", **settings)
    return TaskRun(registry, request, request_methods(registry, [method]), chosen, notes or Silent())


def test_it_gets_rankings_and_scores_of_all_queries_and_its_results_come_first(tmp_path):
    change = Change()
    record = toy(tmp_path, truth(change), seed=3)
    ((outcome, seed),) = change.seen
    assert outcome.ranked.shape == (QUERIES, TRAIN) and outcome.ranked.dtype == np.int64 and seed == 3
    assert all(sorted(row) == list(range(TRAIN)) for row in outcome.ranked.tolist())
    assert outcome.scores.shape == (QUERIES, TRAIN) and outcome.relevant.shape == (QUERIES, TRAIN)
    assert (np.argsort(-outcome.scores, axis=1, kind="stable") == outcome.ranked).all()
    assert record.status == "complete" and record.metrics[0] == result(TRAIN)
    assert record.metric("detection-rate@5") is not None
    assert [control.name for control in record.controls] == ["none"]
    assert record.notes == ["looked at"]
    assert "left" not in record.facts  # what JSON can't hold


def test_several_are_measured_one_after_the_other(tmp_path):
    first, second = Change(), Change()
    record = toy(tmp_path, truth(first), truth(second, "later"))
    assert len(first.seen) == len(second.seen) == 1
    assert [metric.metric for metric in record.metrics[:2]] == ["change", "change"] and len(record.controls) == 2


def test_the_record_keeps_no_deeper_ranking_than_others_do(tmp_path, monkeypatch):
    monkeypatch.setattr(ground_truth_step, "MAX_DEPTH", 5)
    record = toy(tmp_path, truth(Change()))
    assert {len(ids) for ids in record.ranking} == {5}


@pytest.mark.parametrize("fault", [AttrbenchError("too shallow"), ValueError("a bug")])
def test_one_that_fails_leaves_a_failed_record_with_what_was_measured(tmp_path, fault):
    record = toy(tmp_path, truth(Change(fault)))
    assert record.status == "failed"
    assert record.error == ("too shallow" if isinstance(fault, AttrbenchError) else "ValueError: a bug")
    assert record.metric("detection-rate@5") is not None and record.metric("change") is None


@pytest.mark.parametrize(
    ("settings", "why"), [({"limit_train": 10}, "the run is limited"), ({"retrain": False}, "options are being chosen")]
)
def test_limited_runs_and_tuning_runs_are_not_measured_by_it(tmp_path, settings, why):
    change, notes = Change(), Notes()
    record = toy(tmp_path, truth(change), notes=notes, **settings)
    assert not change.seen and record.metric("change") is None
    assert f"retraining: left out, as {why}" in notes.lines


def test_one_that_does_not_apply_changes_nothing(tmp_path):
    notes = Notes()
    with_none, without = (toy(tmp_path / str(n), *truths, notes=notes) for n, truths in enumerate([[truth(None)], []]))
    assert with_none.metrics == without.metrics and with_none.identity == without.identity
    assert not any("retraining" in line or "ground truth" in line for line in notes.lines)


@pytest.mark.parametrize("fault", [Unavailable("no bank"), RuntimeError("no bank")])
def test_one_that_cannot_be_had_is_named_and_left_out_unless_it_was_asked_for(tmp_path, fault):
    notes = Notes()
    assert toy(tmp_path, truth(fault), notes=notes).status == "complete"
    (line,) = [line for line in notes.lines if line.startswith("ground truth change is left out: ")]
    assert line.endswith("no bank")
    with pytest.raises(type(fault), match="no bank"):
        toy(tmp_path, truth(fault), ground_truths=("change",))


def test_one_that_is_not_measured_by_default_is_asked_for_by_name_and_options(tmp_path):
    change = Change()
    assert toy(tmp_path, truth(change, default=False)).metric("change") is None
    record = toy(tmp_path, truth(change, default=False), ground_truths=("change:width=2",))
    assert record.metric("change") is not None
    assert record.command.endswith("--ground-truth change:width=2")
    with pytest.raises(UsageError, match="ground truth change does not apply to task attrbench-check"):
        toy(tmp_path, truth(None), ground_truths=("change",), rerun=True)
    with pytest.raises(UsageError, match="unknown ground truth 'chance'"):
        toy(tmp_path, truth(None), ground_truths=("chance",))


def test_another_state_of_its_files_makes_a_record_stale(tmp_path):
    runs = [toy_run(tmp_path, truth(Change(), state=state)) for state in (None, "a", "b")]
    assert len({run.records.identity(run.methods[0]) for run in runs}) == 3
    tuning = [toy_run(tmp_path, truth(Change(), state=state), retrain=False) for state in (None, "a")]
    assert len({run.records.identity(run.methods[0]) for run in tuning}) == 1
