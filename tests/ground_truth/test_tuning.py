"""Choosing options by a ground truth: by models that were trained again, on the tuning queries alone."""

import sys
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import pytest

from attrbench.cli.app import main
from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.method import ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options, Spec
from attrbench.errors import UsageError
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import TaskRequest, request_sweeps
from attrbench.evaluation.tune import TuningRun
from attrbench.ground_truth.bank import BankPlan, built_bank, read_bank
from attrbench.ground_truth.build import BankBuild, Code
from attrbench.plugins import registry as registry_module
from attrbench.plugins.registry import Plugin, load_registry
from tests.ground_truth.tiny_trainable import QUERIES, TRAIN, OpenTiny, TinyTrainable, TopScorer, setting, waves
from tests.registering import plugin_of
from tests.tasks.tiny_removal import no_stage

TRUE = np.random.default_rng(5).normal(size=(QUERIES, TRAIN)).astype(np.float32)
"""What each training item does to each query, in the models of the banks below."""


class SignOptions(Options):
    sign: int = 1


class Signed(Method[SignOptions]):
    """A method that knows the truth, or its opposite."""

    name = "signed"
    summary = "a toy"
    Options = SignOptions

    def features(self):
        return FeatureRequest()

    def fit(self, train, context):
        return SignedScorer(self.options.sign)


class SignedScorer(ExhaustiveScorer):
    def __init__(self, sign):
        self.sign = sign

    def scores(self, query):
        return self.sign * TRUE[query.ids]

    def size(self):
        return StateSize(shared=1)


class Tops(Signed):
    """The same, of which only the top of each ranking is known."""

    name = "tops"

    def fit(self, train, context):
        return TopScorer()


class QuerySetOptions(Options):
    query_set: Literal["reported", "tuning"] = "reported"


class Tunable(TinyTrainable):
    """A task with tuning queries."""

    meta = TinyTrainable.meta.model_copy(update={"name": "tunable", "main_metric": "detection-rate@10"})
    Options = QuerySetOptions
    tuning: ClassVar = {"query_set": "tuning"}

    def open(self, workspace):
        return OpenTunable(self, workspace)


class OpenTunable(OpenTiny):
    @cached_property
    def queries(self):
        seed = 1 if self._task.options.query_set == "reported" else 2
        return replace(waves(QUERIES, seed), seeds=range(QUERIES))


@pytest.fixture
def registry():
    found = load_registry()
    plugin = Plugin("toys", "tests", "0")
    found.load(plugin, lambda: plugin_of(methods=[Signed, Tops], tasks=[Tunable]))
    assert plugin.error is None
    return found


def planted_bank(task, cache, sign):
    """Write a bank for a task whose models do to its queries what `TRUE` says, or the opposite."""
    opened = setting(cache, lambda options: task)
    work = BankBuild(opened, BankPlan(subsets=8, seeds=1, steps=2, draws=1))
    work.train(no_stage)
    bank = work.bank(Code("digest", None))
    losses = -sign * (bank.members @ TRUE.T.astype(float))
    everywhere = np.broadcast_to(losses[:, None, :, None], bank.losses.shape)
    replace(bank, losses=everywhere.astype(np.float32)).write(built_bank(task, cache))


def tuning_run(registry, task, out, by, method="signed", **settings):
    sweeps = request_sweeps(registry, [f"{method}:sign=1|-1"])
    request = TaskRequest(Spec("tunable", {}), task)
    return TuningRun(registry, request, sweeps, RunSettings(out=out, cache=out / "cache", **settings), Silent(), by)


def test_options_are_chosen_by_models_retrained_for_the_tuning_queries(registry, tmp_path):
    reported = Tunable(QuerySetOptions())
    tuning = Tunable(QuerySetOptions(query_set="tuning"))
    planted_bank(reported, tmp_path / "cache", sign=1)
    planted_bank(tuning, tmp_path / "cache", sign=-1)
    run = tuning_run(registry, reported, tmp_path, "lds")
    (choice,) = run.choices()
    assert choice.chosen.label == "signed:sign=-1"
    assert {tried.label: round(tried.value, 6) for tried in choice.tuned.tried} == {
        "signed:sign=1": -1.0,
        "signed:sign=-1": 1.0,
    }
    (result,) = run.results([choice])
    assert result.record.metric("lds").value == pytest.approx(-1) and result.record.tuned.by == "lds"
    assert result.record.command == "attrbench tune -m 'signed:sign=1|-1' -t tunable --by lds"


def test_a_measure_of_the_top_alone_can_decide_as_well(registry, tmp_path):
    planted_bank(Tunable(QuerySetOptions(query_set="tuning")), tmp_path / "cache", sign=-1)
    (choice,) = tuning_run(registry, Tunable(QuerySetOptions()), tmp_path, "lds-top@10").choices()
    assert choice.tuned.by == "lds-top@10" and choice.chosen.label == "signed:sign=-1"
    with pytest.raises(UsageError, match="unknown metric 'lds-top@11': did you mean"):
        tuning_run(registry, Tunable(QuerySetOptions()), tmp_path, "lds-top@11")


def test_models_retrained_for_the_tuning_queries_decide_by_default(registry, tmp_path):
    reported = Tunable(QuerySetOptions())
    planted_bank(reported, tmp_path / "cache", sign=1)
    (choice,) = tuning_run(registry, reported, tmp_path, None).choices()
    assert choice.tuned.by == "detection-rate@10"
    planted_bank(Tunable(QuerySetOptions(query_set="tuning")), tmp_path / "cache", sign=-1)
    (choice,) = tuning_run(registry, reported, tmp_path, None).choices()
    assert choice.tuned.by == "lds" and choice.chosen.label == "signed:sign=-1"
    (choice,) = tuning_run(registry, reported, tmp_path, None, limit_queries=2).choices()
    assert choice.tuned.by == "detection-rate@10"


def test_without_such_models_the_command_that_trains_them_is_named(registry, tmp_path):
    run = tuning_run(registry, Tunable(QuerySetOptions()), tmp_path, "lds")
    with pytest.raises(UsageError, match="'attrbench ground-truth build tunable:query_set=tuning' trains models"):
        run.choices()


def test_where_the_models_are_there_and_a_method_has_no_scores_nobody_is_told_to_train_some(registry, tmp_path):
    planted_bank(Tunable(QuerySetOptions(query_set="tuning")), tmp_path / "cache", sign=1)
    run = tuning_run(registry, Tunable(QuerySetOptions()), tmp_path, None, method="tops")
    with pytest.raises(UsageError, match="gives no lds on its tuning queries, by which to choose: use --by with one"):
        run.choices()


def test_a_tuning_by_another_metric_reads_no_ground_truth(registry, tmp_path):
    tuning = Tunable(QuerySetOptions(query_set="tuning"))
    planted_bank(tuning, tmp_path / "cache", sign=-1)
    run = tuning_run(registry, Tunable(QuerySetOptions()), tmp_path, "recall@5")
    run.choices()
    assert "lds" not in (next((tmp_path / "cache" / "tuning-runs").rglob("*.json"))).read_text()


def test_models_for_the_tuning_queries_see_other_subsets_than_the_reported_ones(
    registry, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(registry_module, "registry", lambda: registry)
    seeds = {}
    for label, folder in (("tunable", "reported"), ("tunable:query_set=tuning", "tuning")):
        path = tmp_path / f"{folder}.safetensors"
        small = ["--subsets", "2", "--seeds", "1", "--timesteps", "2", "--draws", "1", "--copy-to", str(path)]
        command = ["ground-truth", "build", label, *small, "--device", "cpu", "--cache", str(tmp_path / "cache")]
        monkeypatch.setattr(sys, "argv", ["attrbench", *command])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, capsys.readouterr().err
        opened = setting(tmp_path / "cache", lambda _, queries=folder: Tunable(QuerySetOptions(query_set=queries)))
        seeds[folder] = read_bank(path, opened.task, opened.opened).facts.plan.subset_seed
    assert seeds == {"reported": 0, "tuning": 1}
