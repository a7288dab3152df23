"""Models of a ground truth are trained by every executor as by one process, each once, and leased between machines."""

from __future__ import annotations

import os
import sys
import time

import pytest

from attrbench.cli.app import main
from attrbench.contracts.options import Options
from attrbench.evaluation.bank_run import build_bank, verify_bank
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.run_status import running, units_at_work
from attrbench.executors.inline import InlineExecutor, InlineOptions
from attrbench.ground_truth import retraining
from attrbench.ground_truth.bank import BankPlan
from attrbench.ground_truth.build import BankBuild
from attrbench.plugins import registry as registry_module
from attrbench.plugins.registry import Plugin, load_registry
from attrbench.store.cache_index import PART
from attrbench_tasks.training.train_ddpm import is_trained
from tests.executors.workers import EXECUTORS, Elsewhere, killing
from tests.ground_truth.tiny_trainable import RECIPE, TinyTrainable, setting
from tests.registering import plugin_of
from tests.tasks.tiny_removal import no_stage

PLAN = BankPlan(subsets=3, seeds=2, steps=3, draws=1)


class Marked(TinyTrainable):
    """Leaves its process's id while it trains, takes a while, and leaves the model's name once it has trained it."""

    def train(self, subset, seed, out, device, report):
        if subset is None or is_trained(out, RECIPE.model_copy(update={"seed": seed})):
            return super().train(subset, seed, out, device, report)
        (out.parent / f"pid-{os.getpid()}").touch()
        time.sleep(0.5)
        folder = super().train(subset, seed, out, device, report)
        with (out.parent / "trained").open("a") as file:
            file.write(f"{out.name}\n")
        return folder


@pytest.mark.parametrize("executor", EXECUTORS, indirect=True)
def test_two_workers_build_the_bank_of_one_process_though_one_is_killed_at_its_training(executor, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    task = Marked(Options())
    expected = build_bank(task, PLAN, alone, "cpu", Silent())
    with killing(shared) as killed:
        built = build_bank(task, PLAN, shared, "cpu", Silent(), executor=executor)
    assert len(killed) == 1 and killed != [os.getpid()]
    assert (built.missing, built.subsets) == (0, 3)
    assert built.path.read_bytes() == expected.path.read_bytes()
    trained = (shared / "retrained" / "trained").read_text().split()
    assert len(set(trained)) == len(trained) == 6  # nothing that was trained is trained again


class Counting(Elsewhere):
    """Keeps the jobs that it ran."""

    def __init__(self, options):
        super().__init__(options)
        self.jobs = []

    def run(self, jobs, execute):
        self.jobs += jobs
        yield from super().run(jobs, execute)


def test_no_more_models_than_the_limit_are_handed_out(tmp_path):
    work, counting = BankBuild(setting(tmp_path), PLAN), Counting(InlineOptions())
    assert work.train(no_stage, limit=2, executor=counting) == 4
    assert [job.path for job in counting.jobs] == [job.path for job in work.jobs[:2]]


@pytest.mark.parametrize("kind", [InlineExecutor, Elsewhere])
def test_a_model_and_what_is_kept_of_it_are_leased_where_an_executor_has_other_machines(kind, tmp_path, monkeypatch):
    work, held = BankBuild(setting(tmp_path), PLAN), []
    train = retraining._model

    def watched(job, *rest):
        held.append({path.name for path in job.path.parent.glob("*.lease")})
        return train(job, *rest)

    monkeypatch.setattr(retraining, "_model", watched)
    work.train(no_stage, limit=1, executor=kind(InlineOptions()))
    job = work.jobs[0]
    leases = {f"{job.path.name}.lease", f"{job.weights.name}.lease"}
    assert held == [leases if kind.elsewhere else set()]
    assert not list(job.path.parent.glob("*.lease"))


def test_models_are_trained_again_where_other_machines_see_the_folder(tmp_path):
    task, counting = TinyTrainable(Options()), Counting(InlineOptions())
    build_bank(task, PLAN, tmp_path, "cpu", Silent())
    models = verify_bank(task, "subsets", tmp_path, "cpu", Silent(), 2, counting)
    assert [model.is_same for model in models] == [True, True]
    folders = {job.workspace.cache for job in counting.jobs}
    assert len(counting.jobs) == 2 and {folder.parent for folder in folders} == {tmp_path}
    assert all(PART.search(folder.name) and not folder.exists() for folder in folders)  # `cache gc` knows such names


@pytest.fixture
def attrbench(monkeypatch, capsys):
    """The command line, with the tiny task and an executor that is elsewhere."""
    found = load_registry()
    plugin = Plugin("toys", "tests", "0")
    found.load(plugin, lambda: plugin_of(tasks=[TinyTrainable], executors=[Elsewhere]))
    assert plugin.error is None
    monkeypatch.setattr(registry_module, "registry", lambda: found)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["attrbench", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return run


SMALL = ("--subsets", "3", "--seeds", "1", "--timesteps", "3", "--draws", "1")


def test_the_commands_train_by_the_executor_and_tell_what_is_at_work(attrbench, tmp_path, monkeypatch):
    train, seen = retraining._model, []

    def watched(job, *rest):
        seen.append((job.leases, running(tmp_path), units_at_work(tmp_path)))
        return train(job, *rest)

    monkeypatch.setattr(retraining, "_model", watched)
    ours = ("--cache", str(tmp_path), "--device", "cpu", "--executor")
    code, _, err = attrbench("ground-truth", "build", "tiny-trainable", *SMALL, *ours, "nobody")
    assert code == 2 and len(err.splitlines()) == 1 and "nobody" in err
    code, out, _ = attrbench("ground-truth", "build", "tiny-trainable", *SMALL, *ours, "elsewhere")
    assert code == 0 and out.startswith("3 of 3 subsets") and len(seen) == 3 and running(tmp_path) == []
    for number, (leases, (run,), (unit,)) in enumerate(seen):
        assert leases and unit.text.startswith("a training (")
        assert (run.task, run.methods, run.executor) == ("tiny-trainable", ["ground-truth build"], "elsewhere")
        assert (run.stage.name, run.stage.total) == ("retraining", 3)
        assert run.stage.done <= number  # written at most once a second
    code, out, _ = attrbench("ground-truth", "verify", "tiny-trainable", "--models", "1", *ours, "elsewhere")
    assert code == 0 and "reproduced" in out and len(seen) == 4 and seen[-1][0]
