"""`attrbench check TASK`: what ships passes, and what breaks a promise fails at that promise, with what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from attrbench.cli.check_command import check
from attrbench.conformance import identity_checks
from attrbench.conformance.task_check import CHECKS, NAMES, check_task
from attrbench.contracts.options import Options
from attrbench.contracts.task import Trainable
from attrbench.evaluation.requests import request_tasks
from attrbench.plugins import builtin
from attrbench.plugins.registry import Plugin, Registry, registry
from tests.conformance.broken import Cosine, failing
from tests.conformance.broken_tasks import BROKEN, META, ManyNames, Waves, with_task
from tests.data.making import captioned
from tests.ground_truth.tiny_trainable import TinyTrainable
from tests.registering import plugin_of
from tests.taskfile.making import write_task

ROOT = Path(__file__).parents[2]
MINIS = (
    "digits-mini",
    "ddpm-mnist-mini",
    "ddpm-icons-mini",
    "mnist-removal-mini",
    "mnist14-mini",
    "sd14-lora-mini",
    "sd3-lora-mini",
    "sd3-full-mini",
    "planted-lora-mini",
    "customized-mini:model=0",
)


def core() -> Registry:
    found = Registry()
    found.load(Plugin("core", "attrbench", "0"), lambda: builtin)
    return found


def report_of(kind, tmp_path, **options):
    found = core()
    (request,) = request_tasks(found, [kind])
    return check_task(found, request, tmp_path, **options)


def finding(report, name):
    return next(finding for finding in report.findings if finding.check == name)


ASK = f"""
import sys
from {identity_checks.__name__} import tell_identity
folder, *names = sys.argv[1:]
for name in names:
    sys.argv[1:] = [name, folder, "cpu"]
    tell_identity()
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """What the check `process` hears of each mini: all are asked in one other process, since each takes seconds."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(tmp_path_factory.mktemp("elsewhere")), *MINIS],
        env={**os.environ, "PYTHONHASHSEED": identity_checks.HASH_SEED},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(MINIS, done.stdout.splitlines(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIS)
def test_the_minis_that_ship_keep_to_the_contract(name, elsewhere, tmp_path, monkeypatch):
    heard = subprocess.CompletedProcess((), 0, elsewhere[name], "")
    monkeypatch.setattr(identity_checks, "subprocess", SimpleNamespace(run=lambda *arguments, **options: heard))
    (request,) = request_tasks(registry(), [name])
    report = check_task(registry(), request, tmp_path)
    assert not failing(report)
    assert tuple(finding.check for finding in report.findings) == NAMES


def test_every_mini_is_checked():
    checked = {name.partition(":")[0] for name in MINIS}
    assert {name for name in registry().names("task") if name.endswith("-mini")} == checked


def test_a_sound_task_passes_every_check(tmp_path):
    report = report_of(Waves, tmp_path)
    assert not failing(report)
    assert tuple(finding.check for finding in report.findings) == NAMES
    skipped = {finding.check for finding in report.findings if finding.status == "skipped"}
    assert skipped == {"checkpoints", "process", "tuning", "training"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_task_fails_at_what_it_breaks_and_says_what_to_do(name, tmp_path):
    kind, where, line = BROKEN[name]
    np.random.seed(0)
    report = report_of(kind, tmp_path)
    found = finding(report, where)
    assert found.status == "failed" and line in found.found, failing(report)
    assert found.advice
    assert finding(report, "run").status == "skipped"


def test_every_check_notices_something():
    elsewhere = {"process", "tuning", "training"}  # below
    assert {where for _, where, _ in BROKEN.values()} | elsewhere == set(CHECKS)


def test_a_fingerprint_that_another_process_would_not_give_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "named.py").write_text(
        "from attrbench import hookimpl\n"
        "@hookimpl\n"
        "def register_tasks(register):\n"
        "    register('waves', '24 waves', 'tests.conformance.broken_tasks:ManyNames')\n"
    )
    about = tmp_path / "named-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: named\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[attrbench]\nnamed = named\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    found = core()
    found.load(Plugin("named", "tests", "0"), lambda: plugin_of(tasks=[ManyNames]))
    (request,) = request_tasks(found, ["waves"])
    report = check_task(found, request, tmp_path / "cache")
    assert "training set's fingerprint of the task opened in another process" in failing(report)["process"]


class WithTuning(Options):
    query_set: str = "reported"
    """Which queries."""
    train_items: int = Field(24)
    """How many are there."""


def test_tuning_queries_that_are_reported_too_are_noticed(tmp_path):
    kind = with_task(Options=WithTuning, tuning={"query_set": "tuning"})
    assert "6 of 6 tuning queries are reported" in failing(report_of(kind, tmp_path))["tuning"]


def test_options_of_tuning_that_change_more_than_the_queries_are_noticed(tmp_path):
    def fewer(self, items):
        few = self.options.train_items
        return replace(items, images=items.images[:few], fingerprint=f"{items.fingerprint}{few}")

    kind = with_task(Options=WithTuning, tuning={"train_items": "23"}, trained_on=fewer)
    assert "training set is another one" in failing(report_of(kind, tmp_path))["tuning"]


def test_a_task_file_without_groups_is_for_rankings_alone(tmp_path, tiny_folder):
    captioned(tmp_path / "images", 4)
    model = {"model": str(tiny_folder), "sampling_steps": 2}
    data = {"path": "images", "group_column": "family"}
    file = write_task(tmp_path / "own.toml", model=model, train=data, queries={"seeds": "0-1"})
    report = report_of(file, tmp_path / "cache")
    assert {name: finding(report, name).status for name in ("groups", "main-metric")} == dict.fromkeys(
        ("groups", "main-metric"), "skipped"
    )
    assert not failing(report)


def test_a_task_that_can_not_be_opened_is_one_line(tmp_path):
    def closed(self, workspace):
        raise ZeroDivisionError("by zero")

    report = report_of(with_task(open=closed), tmp_path)
    (only,) = report.findings
    assert only.check == "opens" and "ZeroDivisionError: by zero" in only.found


class IgnoresSubset(TinyTrainable):
    def train(self, subset, seed, out, device, report):
        return super().train(None, seed, out, device, report)


class IgnoresSeed(TinyTrainable):
    def train(self, subset, seed, out, device, report):
        return super().train(subset, 3, out, device, report)


class DrawsASeed(TinyTrainable):
    def train(self, subset, seed, out, device, report):
        return super().train(subset, int(np.random.default_rng().integers(2**31)), out, device, report)


def refusing(kind):
    """The task with the refusal of wrong subsets that a trainable task promises."""
    from attrbench_tasks.training.training_request import TrainingRequest

    def train(self, subset, seed, out, device, report):
        TrainingRequest(24, subset, seed)
        return kind.train(self, subset, seed, out, device, report)

    return type(kind.__name__, (kind,), {"train": train, "meta": META.model_copy(update={"name": "trained"})})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (IgnoresSubset, "a training with another subset gives the same weights"),
        (IgnoresSeed, "a training with another seed gives the same weights"),
        (DrawsASeed, "the same seed give other weights"),
    ],
)
def test_training_that_ignores_what_it_is_given_is_noticed_where_it_is_asked_for(kind, line, tmp_path):
    found = finding(report_of(refusing(kind), tmp_path, retrain=True), "training")
    assert found.status == "failed" and line in found.found


class TakesAnything(TinyTrainable):
    def train(self, subset, seed, out, device, report):
        if subset is None:  # its own model
            return super().train(subset, seed, out, device, report)
        report("begun")
        return out


@pytest.mark.parametrize(
    ("kind", "line"),
    [(TakesAnything, "a subset that is empty is trained on"), (TinyTrainable, "that is empty gives RuntimeError")],
)
def test_a_subset_that_should_be_refused_is_noticed_before_anything_is_trained(kind, line, tmp_path):
    found = finding(report_of(kind, tmp_path, retrain=True), "training")
    assert found.status == "failed" and line in found.found


@pytest.mark.slow
def test_a_training_by_subset_and_seed_passes_and_is_skipped_by_default(tmp_path):
    kind = refusing(TinyTrainable)
    assert issubclass(kind, Trainable)
    assert finding(report_of(kind, tmp_path), "training").status == "skipped"
    found = finding(report_of(kind, tmp_path, retrain=True), "training")
    assert found.status == "passed", found


@pytest.fixture
def command(monkeypatch, tmp_path):
    def run(*arguments, methods=(), tasks=()):
        app = typer.Typer()
        app.command()(check)
        found = core()
        found.load(Plugin("theirs", "tests", "0"), lambda: plugin_of(methods=methods, tasks=tasks))
        monkeypatch.setattr("attrbench.plugins.registry.registry", lambda: found)
        return CliRunner().invoke(app, [*arguments, "--device", "cpu", "--cache", str(tmp_path)])

    return run


def test_the_registry_tells_a_task_from_a_method(command):
    done = command("waves", "cosine:steps=1", "--json", methods=[Cosine], tasks=[Waves])
    assert [next(iter(report.items())) for report in json.loads(done.stdout)] == [
        ("method", "cosine:steps=1"),
        ("task", "waves"),
    ]


def test_a_name_that_a_method_and_a_task_have_is_asked_back(command):
    both = with_task(meta=META.model_copy(update={"name": "cosine"}))
    done = command("cosine", methods=[Cosine], tasks=[both])
    assert "'cosine' is the name of a method and of a task: say which with -m cosine or -t cosine" in str(
        done.exception
    )
    done = command("-t", "cosine", "--json", methods=[Cosine], tasks=[both])
    assert [report["task"] for report in json.loads(done.stdout)] == ["cosine"]


def test_an_unknown_name_is_refused_with_those_that_are_near(command):
    assert "unknown method or task 'wave': did you mean waves?" in str(command("wave", tasks=[Waves]).exception)


def test_the_command_exits_with_1_where_a_task_breaks_a_promise(command):
    kind, where, line = BROKEN["batch-mean"]
    done = command("waves", tasks=[kind])
    assert done.exit_code == 1
    assert f"failed   {where}" in done.output and line in done.output and "-> let encode" in done.output


def test_the_command_asks_for_a_name(command):
    assert "name a method or a task" in str(command().exception)
