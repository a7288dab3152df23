"""Models trained on parts of a training set: each once, whoever asks, however often that is cut off."""

import multiprocessing
import os

import numpy as np
import pytest

from attrbench.errors import AttrbenchError
from attrbench.store.checksums import seal_path
from attrbench_tasks.removal.retraining import FOLDER, Job
from attrbench_tasks.training import loop as fitting
from attrbench_tasks.training import train_ddpm as ddpm_training
from attrbench_tasks.training.loop import STATE_FILE
from tests.tasks.tiny_removal import ITEMS, RECIPE, Notes, no_stage, retraining

A, B = Job((1, 2, 5), 0), Job((1, 2, 5), 1)


@pytest.fixture
def trained(monkeypatch):
    """The number of items and the recipe of each training, in order."""
    seen, train = [], ddpm_training.train_ddpm

    def counted(recipe, images, out, **rest):
        seen.append((len(images), recipe))
        return train(recipe, images, out, **rest)

    monkeypatch.setattr(ddpm_training, "train_ddpm", counted)
    return seen


def test_a_model_is_trained_once_on_what_is_left_with_equal_steps(tmp_path, trained):
    models = retraining(tmp_path)
    models.complete([A, B, A, Job((), 0)], no_stage)
    retraining(tmp_path).complete([A, B], no_stage)
    assert [items for items, _ in trained] == [ITEMS - 3, ITEMS - 3, ITEMS]
    assert [recipe.seed for _, recipe in trained] == [0, 1, 0]
    assert {recipe.steps for _, recipe in trained} == {RECIPE.steps}
    pictures = models.drawn(A)
    assert pictures.shape == (4, 8, 8, 1)
    assert not np.array_equal(pictures, models.drawn(B))
    assert not np.array_equal(pictures, models.drawn(Job((), 0)))


def test_what_decides_the_pictures_is_in_their_name(tmp_path):
    models = retraining(tmp_path)
    paths = {
        models.path(A),
        models.path(B),
        models.path(Job((1, 2), 0)),
        retraining(tmp_path, pictures=5).path(A),
        retraining(tmp_path, first_seed=0).path(A),
        retraining(tmp_path, recipe=RECIPE.model_copy(update={"steps": 7})).path(A),
    }
    assert len(paths) == 6
    assert models.path(A) == retraining(tmp_path, every=3).path(Job((1, 2, 5), 0))


def test_only_the_pictures_stay(tmp_path):
    models = retraining(tmp_path)
    models.complete([A], no_stage)
    names = sorted(path.name for path in (tmp_path / FOLDER).rglob("*"))
    assert names == sorted([models.path(A).name, seal_path(models.path(A)).name])


@pytest.mark.parametrize("moment", ["training", "drawing"])
def test_an_interrupted_training_goes_on_to_the_same_pictures(tmp_path, monkeypatch, moment):
    whole, cut = retraining(tmp_path / "whole"), retraining(tmp_path / "cut")
    whole.complete([A], no_stage)
    with monkeypatch.context() as patch:
        if moment == "drawing":
            patch.setattr(type(cut), "draw", lambda self, denoiser: (_ for _ in ()).throw(KeyboardInterrupt))
        else:
            patch.setattr(fitting, "_average", _stop_at(5, fitting._average))
        with pytest.raises(KeyboardInterrupt):
            cut.complete([A], no_stage)
    folder = cut.path(A).with_suffix("")
    assert (folder / STATE_FILE).exists() == (moment == "training")
    steps = []
    monkeypatch.setattr(fitting, "_average", _count(steps, fitting._average))
    reporter = Notes()
    cut.complete([A], reporter.stage)
    assert steps == ([5, 6] if moment == "training" else [])
    assert reporter.steps["retraining"] == (4, 4)  # three states on disk and the pictures, done before or not
    assert np.array_equal(cut.drawn(A), whole.drawn(A))
    assert not folder.exists()


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


def test_damaged_pictures_are_made_again(tmp_path, trained):
    models = retraining(tmp_path)
    models.complete([A], no_stage)
    before = models.drawn(A)
    data = bytearray(models.path(A).read_bytes())
    data[-1] ^= 255
    models.path(A).write_bytes(data)
    models.complete([A], no_stage)
    assert len(trained) == 2
    assert np.array_equal(models.drawn(A), before)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(AttrbenchError, match="choose another folder with --cache"):
        retraining(tmp_path).complete([A], no_stage)


def _work(cache, log):
    train = ddpm_training.train_ddpm

    def logged(recipe, images, out, **rest):
        with log.open("a") as file:
            file.write(f"{os.getpid()} {out.name}\n")
        return train(recipe, images, out, **rest)

    ddpm_training.train_ddpm = logged
    retraining(cache).complete([A, B, Job((3,), 0), Job((3,), 1)], no_stage)


def test_two_processes_share_the_trainings(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(tmp_path, tmp_path / "log")) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0]
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert len({model for _, model in lines}) == len(lines) == 4
    assert len({process for process, _ in lines}) == 2
