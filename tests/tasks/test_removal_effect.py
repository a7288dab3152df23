"""Controls remove as many items as a method, and thinning has intervals that hold the truth."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

import numpy as np
import pytest

from attrbench.contracts.metric import Outcome
from attrbench.contracts.task import Workspace
from attrbench.errors import AttrbenchError
from attrbench.ground_truth.removal import MATCHED, PIXEL, RANDOM
from attrbench.ground_truth.removal_effect import decrease, result, training_noise
from attrbench.ground_truth.retraining import draw
from attrbench_tasks.removal.thickness import METRIC, thicknesses
from tests.tasks.removal_model import (
    CONTROLS,
    CPU,
    THICKEST,
    folder,  # noqa: F401
    out,  # noqa: F401
)
from tests.tasks.tiny_removal import ITEMS, RECIPE, TinyRemoval, bars, removal, tiny_task


@pytest.fixture(scope="session")
def experiment(folder, out):
    return removal(tiny_task(folder), out / "cache")


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("removed", [np.arange(10), np.arange(3, 40, 4)])
def test_controls_remove_as_many_as_the_method(experiment, name, removed):
    for seed in (0, 1):
        assert len(np.unique(experiment.choice(name, removed, seed))) == len(removed)


def test_the_class_matched_control_has_the_classes_of_the_removed(experiment):
    removed, classes = np.arange(0, 20, 2), bars()[1]
    for seed in (0, 1):
        chosen = experiment.choice(MATCHED, removed, seed)
        assert np.bincount(classes[chosen]).tolist() == np.bincount(classes[removed]).tolist()


def test_random_controls_are_drawn_for_each_seed_and_others_are_not(experiment):
    jobs = {name: experiment.jobs_of(name, np.arange(10)) for name in CONTROLS}
    assert {name: len({job.subset for job in group}) for name, group in jobs.items()} == {
        RANDOM: 2,
        MATCHED: 2,
        THICKEST: 1,
        PIXEL: 1,
    }


def test_the_ceiling_removes_the_thickest(experiment):
    widest = np.flatnonzero(np.arange(ITEMS) % 4 == 3)
    assert experiment.choice(THICKEST, np.arange(10), 0).tolist() == widest.tolist()


def test_removing_everything_is_refused_before_anything_is_trained(folder, out):
    task = tiny_task(folder, removal="union", top_k=ITEMS)
    ranked = np.tile(np.arange(ITEMS), (4, 1))
    with pytest.raises(AttrbenchError, match="40 of 40 items would be removed"):
        removal(task, out / "cache").jobs(Outcome(ranked, None))


def test_equal_pictures_have_no_thinning():
    strokes = np.random.default_rng(0).uniform(1, 3, (2, 30))
    assert (decrease(strokes, strokes) == 0).all()


def test_thinner_strokes_count_as_positive_and_empty_pictures_do_not_count():
    before = np.array([[2.0, 3.0, np.nan, 2.5], [2.0, 2.0, 2.0, 2.0]])
    after = np.array([[1.0, 2.5, 1.0, np.nan], [2.0, 2.0, 2.0, 1.0]])
    difference = decrease(before, after)
    assert difference.tolist() == [[1.0, 0.5, 0.75, 0.75], [0.0, 0.0, 0.0, 1.0]]
    assert difference.mean(axis=1).tolist() == [0.75, 0.25]
    with pytest.raises(AttrbenchError, match="empty pictures only"):
        decrease(before, np.full((2, 4), np.nan))


def test_queries_are_the_thickest_generations_and_come_back_the_same(folder, tmp_path):
    opened = tiny_task(folder).open(Workspace(tmp_path, CPU))
    queries, drawn = opened.queries, draw(opened.denoiser, range(12))
    strokes = np.nan_to_num(thicknesses(drawn))
    assert queries.seeds == np.argsort(-strokes, kind="stable")[:4].tolist()
    assert np.array_equal(queries.images, drawn[queries.seeds])
    again = tiny_task(folder).open(Workspace(tmp_path, CPU)).queries
    assert again.fingerprint == queries.fingerprint and np.array_equal(again.images, queries.images)


def test_groups_are_the_quarter_with_the_thickest_strokes(folder, tmp_path):
    opened = tiny_task(folder).open(Workspace(tmp_path, None))
    assert [group == "thick" for group in opened.train.groups] == [item % 4 == 3 for item in range(ITEMS)]


def test_a_model_of_another_recipe_is_not_taken_for_the_first_seed(folder, out, monkeypatch):
    def trained_on(removed):
        experiment = removal(tiny_task(folder), out / "cache")
        return [(job.subset is None, job.seed) for job in experiment.jobs_of("method", np.array(removed, np.int64))]

    own = (True, None)  # the task's own model, for which nothing is trained
    assert trained_on([]) == [own, (True, 1)]
    assert trained_on([1]) == [(False, 0), (False, 1)]
    monkeypatch.setattr(TinyRemoval, "recipe", staticmethod(lambda: RECIPE.model_copy(update={"steps": 7})))
    assert trained_on([]) == [(True, 0), (True, 1)]


def layout(rng, seeds, sets=5, pictures=40, noise=1.0, own=0.5):
    """[sets, seeds, pictures] thinning by two-way additive noise of training around a truth of 0, and of pictures."""
    models = noise * rng.standard_normal((sets + 1, seeds))
    means = models[:1] - models[1:]
    return means[:, :, None] + own * rng.standard_normal((sets, 1, pictures))


@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_over_few_training_seeds_hold_the_truth_about_95_times_in_100(seeds):
    rng, hits, differences = np.random.default_rng(0), 0, 0
    trials = 400
    for _ in range(trials):
        values = layout(rng, seeds)
        noise = training_noise(np.vstack([np.zeros((1, seeds)), values.mean(2)]))
        one = result(METRIC, values[0], noise)
        hits += one.low <= 0 <= one.high
        other = result("difference", values[0] - values[1], noise)
        differences += other.low <= 0 <= other.high
    assert 0.92 <= hits / trials <= 0.99
    assert 0.92 <= differences / trials <= 0.99


def test_what_a_seed_does_to_all_sets_alike_is_not_noise_between_them():
    means = np.array([[0.0, 0.0], [0.1, 0.1], [0.3, 0.3]])
    assert training_noise(means).error == pytest.approx(0, abs=1e-12)
    shifted = means + [[0.0, 0.2]] * 3
    assert training_noise(shifted).error == pytest.approx(0, abs=1e-12)
