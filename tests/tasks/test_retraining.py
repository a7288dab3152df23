"""Models trained on parts of a training set: each once, whoever asks, however often that is cut off."""

import multiprocessing
import os
import pickle
import shutil

import numpy as np
import pytest
import torch

from attrbench.contracts.ground_truth import RETRAINED, TruthSetting
from attrbench.errors import AttrbenchError
from attrbench.executors.inline import InlineExecutor, InlineOptions
from attrbench.ground_truth import retraining
from attrbench.ground_truth.retraining import DrawnPictures, is_done, measured, run_trainings, training_job
from attrbench.store import locks
from attrbench.store.artifacts import Artifact
from attrbench.store.checksums import seal_path
from attrbench_tasks.removal import removal_task
from attrbench_tasks.training import loop as fitting
from attrbench_tasks.training.train_ddpm import scaled, train_ddpm
from attrbench_tasks.training.training_state import has_state
from tests.executors.workers import Elsewhere, of_one_machine
from tests.tasks.tiny_removal import ITEMS, RECIPE, Notes, TinyRemoval, bars, job_without, no_stage, setting, tiny_task

A, B = ((1, 2, 5), 0), ((1, 2, 5), 1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A model that was trained by the recipe, on everything."""
    out = tmp_path_factory.mktemp("tiny-removal")
    return train_ddpm(RECIPE, scaled(bars()[0]), out, device=torch.device("cpu"), report=lambda step, loss: None)


@pytest.fixture
def trained(monkeypatch):
    """The number of items and the recipe of each training, in order."""
    seen = []

    def counted(recipe, images, out, **rest):
        seen.append((len(images), recipe))
        return train_ddpm(recipe, images, out, **rest)

    monkeypatch.setattr(removal_task, "train_ddpm", counted)
    return seen


def test_a_model_is_trained_once_on_what_is_left_with_equal_steps(tmp_path, folder, trained):
    a, b, whole = (job_without(folder, tmp_path, *which) for which in (A, B, ((), 0)))
    run_trainings([a, b, a, whole], no_stage)
    run_trainings([job_without(folder, tmp_path, *which) for which in (A, B)], no_stage)
    assert [items for items, _ in trained] == [ITEMS - 3, ITEMS - 3, ITEMS]
    assert [recipe.seed for _, recipe in trained] == [0, 1, 0]
    assert {recipe.steps for _, recipe in trained} == {RECIPE.steps}
    pictures = measured(a)["images"]
    assert pictures.shape == (4, 8, 8, 1)
    assert not np.array_equal(pictures, measured(b)["images"])
    assert not np.array_equal(pictures, measured(whole)["images"])


def test_weights_that_a_kill_left_half_dropped_are_gone_after_the_next_run(tmp_path, folder, monkeypatch):
    (job,) = jobs = [job_without(folder, tmp_path, *A)]
    with monkeypatch.context() as patch:
        patch.setattr(Artifact, "drop", lambda self: None)
        run_trainings(jobs, no_stage)
    shutil.rmtree(job.weights)
    left = seal_path(job.weights)
    assert left.exists()
    run_trainings(jobs, no_stage)
    assert not left.exists()


def test_the_tasks_own_model_is_measured_and_not_trained(tmp_path, folder, trained):
    task = tiny_task(folder)
    own = training_job(setting(task, tmp_path), None, None, DrawnPictures(1_000_000, 4))
    again = job_without(folder, tmp_path, (), 0)
    run_trainings([own], no_stage)
    assert not trained
    run_trainings([again], no_stage)
    assert own.path != again.path and np.array_equal(measured(own)["images"], measured(again)["images"])


def test_what_decides_the_pictures_is_in_their_name(tmp_path, folder, monkeypatch):
    def path(*which, **changes):
        return job_without(folder, tmp_path, *which, **changes).path

    paths = {path(*A), path(*B), path((1, 2), 0), path(*A, pictures=5), path(*A, first_seed=0)}
    with monkeypatch.context() as patch:
        patch.setattr(TinyRemoval, "recipe", staticmethod(lambda: RECIPE.model_copy(update={"steps": 7})))
        paths.add(path(*A))
    assert len(paths) == 6
    known = path(*A)
    monkeypatch.setattr(TinyRemoval, "checkpoint_every", 3)
    assert path(*A) == known


def test_only_the_pictures_stay(tmp_path, folder):
    job = job_without(folder, tmp_path, *A)
    run_trainings([job], no_stage)
    names = sorted(path.name for path in (tmp_path / RETRAINED).rglob("*"))
    assert names == sorted([job.path.name, f"{job.path.name}.seal.json"])


@pytest.mark.parametrize("moment", ["training", "drawing"])
def test_an_interrupted_training_goes_on_to_the_same_pictures(tmp_path, folder, monkeypatch, moment):
    whole, cut = (job_without(folder, tmp_path / name, *A) for name in ("whole", "cut"))
    run_trainings([whole], no_stage)
    with monkeypatch.context() as patch:
        if moment == "drawing":
            patch.setattr(retraining, "draw", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        else:
            patch.setattr(fitting, "_average", _stop_at(5, fitting._average))
        with pytest.raises(KeyboardInterrupt):
            run_trainings([cut], no_stage)
    left = cut.weights
    assert has_state(left) == (moment == "training")
    steps = []
    monkeypatch.setattr(fitting, "_average", _count(steps, fitting._average))
    reporter = Notes()
    run_trainings([cut], reporter.stage)
    assert steps == ([5, 6] if moment == "training" else [])
    assert reporter.steps["retraining"] == (1, 1)
    assert np.array_equal(measured(cut)["images"], measured(whole)["images"])
    assert not left.exists()


def _stop_at(last, update):
    def stopping(recipe, ema, unet, step):
        if step == last:
            raise KeyboardInterrupt
        update(recipe, ema, unet, step)

    return stopping


def _count(steps, update):
    def counting(recipe, ema, unet, step):
        steps.append(step)
        update(recipe, ema, unet, step)

    return counting


def test_damaged_pictures_are_made_again(tmp_path, folder, trained):
    job = job_without(folder, tmp_path, *A)
    run_trainings([job], no_stage)
    before = measured(job)["images"]
    data = bytearray(job.path.read_bytes())
    data[-1] ^= 255
    job.path.write_bytes(data)
    assert not is_done(job)
    run_trainings([job], no_stage)
    assert len(trained) == 2
    assert np.array_equal(measured(job)["images"], before)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, folder):
    (tmp_path / RETRAINED).write_text("in the way")
    with pytest.raises(AttrbenchError, match="choose another folder with --cache"):
        run_trainings([job_without(folder, tmp_path, *A)], no_stage)


def test_a_job_that_was_sent_elsewhere_does_the_same(tmp_path, folder):
    here, there = (job_without(folder, tmp_path / name, *A) for name in ("here", "there"))
    retraining.use_opened_task(TruthSetting(here.task, None, here.workspace))
    assert retraining.train_subset(pickle.loads(pickle.dumps(there))).state == "done"
    run_trainings([here], no_stage)
    assert np.array_equal(measured(here)["images"], measured(there)["images"])


def _work(cache, folder, log, executor):
    def logged(recipe, images, out, **rest):
        with log.open("a") as file:
            file.write(f"{os.getpid()} {out.name}\n")
        return train_ddpm(recipe, images, out, **rest)

    removal_task.train_ddpm = logged
    if executor.elsewhere:
        locks.lock = of_one_machine
    jobs = [job_without(folder, cache, *which) for which in (A, B, ((3,), 0), ((3,), 1))]
    run_trainings(jobs, no_stage, executor)


@pytest.mark.parametrize("kind", [InlineExecutor, Elsewhere])
def test_two_processes_share_the_trainings_on_several_machines_without_common_locks_too(tmp_path, folder, kind):
    context, executor = multiprocessing.get_context("fork"), kind(InlineOptions())
    workers = [context.Process(target=_work, args=(tmp_path, folder, tmp_path / "log", executor)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0]
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert len({model for _, model in lines}) == len(lines) == 4
    assert len({process for process, _ in lines}) == 2


def _hold(path, is_held, over):
    with Artifact(path, "retrained weights", "").lock():
        is_held.set()
        over.wait(300)


def test_weights_that_another_process_is_training_for_another_measurement_stay(tmp_path, folder):
    job = job_without(folder, tmp_path, *A)
    run_trainings([job], no_stage)
    context = multiprocessing.get_context("fork")
    is_held, over = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(job.weights, is_held, over))
    other.start()
    try:
        assert is_held.wait(300)
        job.weights.mkdir()
        run_trainings([job], no_stage)
        assert job.weights.exists()
    finally:
        over.set()
        other.join(300)
    run_trainings([job], no_stage)
    assert not job.weights.exists()
