"""Removal and retraining as a task that any method can run on."""

import numpy as np
import pytest
import torch

from attrbench.conformance.toy_task import ToyTask
from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.method import Method, Ranking, Scorer, StateSize
from attrbench.contracts.metric import Outcome
from attrbench.contracts.options import Options
from attrbench.contracts.record import Record
from attrbench.contracts.task import Workspace
from attrbench.errors import AttrbenchError, UsageError
from attrbench.ground_truth.removal import MATCHED, PIXEL, RANDOM, Removal, RemovalRule
from attrbench.ground_truth.removal import RemovalOptions as NoOptions
from attrbench.ground_truth.removal_effect import decrease, result, training_noise
from attrbench.ground_truth.retraining import draw
from attrbench.plugins.registry import Plugin, Registry, load_registry
from attrbench.reports.leaderboard_table import to_csv, to_json, to_markdown, to_rich
from attrbench.reports.ranking import build_tables
from attrbench_tasks.datasets.mnist_source import load_mnist
from attrbench_tasks.removal import removal_task
from attrbench_tasks.removal.mnist_removal import MnistRemoval, MnistRemovalMini, PaperRemovalOptions
from attrbench_tasks.removal.removal_task import RemovalOptions
from attrbench_tasks.removal.thickness import METRIC, thicknesses
from attrbench_tasks.training.train_ddpm import is_trained, scaled, train_ddpm
from tests.registering import plugin_of
from tests.tasks.tiny_removal import ITEMS, RECIPE, SMALL, Notes, TinyRemoval, bars, removal, run, setting, tiny_task

CPU = torch.device("cpu")
THICKEST = "thickest"
CONTROLS = (RANDOM, MATCHED, THICKEST, PIXEL)


class Tens(Method[Options]):
    """A toy that ranks the items from the first to the last, whatever the query; a search that has no scores."""

    name = "tens"
    summary = "the first first"
    Options = Options
    found = ITEMS

    def features(self):
        return FeatureRequest()

    def fit(self, train, context):
        return TensScorer(min(context.depth, self.found))


class Likewise(Tens):
    name = "likewise"


class Shallow(Tens):
    name = "shallow"
    found = 6


class TensScorer(Scorer):
    def __init__(self, depth):
        self.depth = depth

    def top(self, query, k):
        ids = np.tile(np.arange(self.depth), (len(query.ids), 1))
        return Ranking(ids, -ids.astype(np.float32))

    def size(self):
        return StateSize(shared=1)


@pytest.fixture(scope="session")
def registry() -> Registry:
    found = load_registry()
    toys = plugin_of(methods=[Tens, Likewise, Shallow])
    plugin = Plugin("toys", "tests", "0")
    found.load(plugin, lambda: toys)
    assert plugin.error is None
    return found


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A model that was trained by the recipe, on everything."""
    out = tmp_path_factory.mktemp("tiny-removal")
    return train_ddpm(RECIPE, scaled(bars()[0]), out, device=CPU, report=lambda step, loss: None)


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="session")
def records(registry, folder, out) -> dict[str, Record]:
    methods = ["random", "pixel", "tens", "dmin:v=16,timesteps=2"]
    return {record.method.name: record for record in run(registry, tiny_task(folder), methods, out)}


def test_any_method_runs_and_its_record_is_complete(records):
    assert len(records) == 4
    for record in records.values():
        assert (record.status, record.error) == ("complete", None)
        main = record.metric(METRIC)
        assert main is record.metrics[0] and main.k is None and main.higher_is_better
        assert len(main.per_query) == SMALL["seeds"] * SMALL["pictures"] and main.clusters == SMALL["seeds"]
        assert main.value == pytest.approx(np.mean(main.per_query), abs=1e-4)
        assert main.low < main.value < main.high and main.noise.error > 0
        assert [control.name for control in record.controls] == list(CONTROLS)
        named = {control.name: control.result.value for control in record.controls}
        assert (main.random, main.ceiling) == (named[RANDOM], named[THICKEST])
        assert record.metric("detection-rate@10") is not None
        assert Record.model_validate_json(record.model_dump_json()) == record


def test_the_record_says_what_was_removed_and_how_hubby_the_ranking_is(records):
    facts = records["tens"].facts
    assert facts["removed"] == SMALL["removed"]
    assert facts["training_seeds"] == 2 and facts["pictures"] == 8
    assert facts["mean_in_degree"] == pytest.approx(4 * 4 / 10)  # four of the ten removed, by all four queries
    assert facts["never_retrieved"] == pytest.approx(36 / 40)
    assert 0 <= facts["ks"] <= 1 and facts["thickness_before"] > 0
    assert facts["thickness_before"] - facts["thickness_after"] == pytest.approx(records["tens"].metrics[0].value)


def test_the_pixel_control_is_the_set_of_the_method_pixel(records):
    record = records["pixel"]
    assert record.facts["among_pixel_cosine"] == 1
    assert {c.name: c.result.value for c in record.controls}[PIXEL] == record.metric(METRIC).value


def test_noise_is_estimated_from_each_set_of_models_once(records):
    """Nothing, the method's, four controls; of `pixel` the control is the method's own set."""
    freedom = {name: record.metric(METRIC).noise.freedom for name, record in records.items()}
    assert freedom["tens"] == 5 and freedom["pixel"] == 4
    for record in records.values():
        noises = {result.noise for result in (record.metrics[0], *(control.result for control in record.controls))}
        assert len(noises) == 1


def test_what_is_shared_is_the_same_for_every_method(records):
    """But for its interval, which rests on the noise that the record's models show."""
    own = {"low": None, "high": None, "noise": None}
    first, *others = (
        {c.name: c.result.model_copy(update=own) for c in record.controls if c.shared} for record in records.values()
    )
    assert set(first) == {RANDOM, THICKEST, PIXEL}
    assert all(other == first for other in others)


def test_equal_removed_sets_share_their_models(registry, folder, out, records, monkeypatch):
    trained = []
    monkeypatch.setattr(removal_task, "train_ddpm", lambda *a, **b: trained.append(a))
    (record,) = run(registry, tiny_task(folder), ["likewise"], out)
    assert record.status == "complete" and not trained
    assert record.metrics == records["tens"].metrics and record.controls == records["tens"].controls


def test_a_killed_run_resumes_with_the_same_command(registry, folder, tmp_path, records, monkeypatch):
    trained, train = [], train_ddpm

    def stop_at_the_fourth(*arguments, **rest):
        trained.append(arguments)
        if len(trained) == 4:
            raise KeyboardInterrupt
        return train(*arguments, **rest)

    monkeypatch.setattr(removal_task, "train_ddpm", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run(registry, tiny_task(folder), ["tens"], tmp_path)
    assert not list(tmp_path.glob("tiny-removal/*.json"))
    (record,) = run(registry, tiny_task(folder), ["tens"], tmp_path)
    models = 2 * (1 + len(CONTROLS)) + 1  # the model of the first seed on everything is the task's own
    assert len(trained) == models + 1
    assert record.metrics == records["tens"].metrics and record.controls == records["tens"].controls


def test_the_leaderboard_shows_the_controls_and_says_that_this_is_no_retrieval(records):
    (table,) = build_tables(list(records.values()))
    assert table.metric == METRIC and len(table.ranked) == 4
    text = to_markdown([table])
    for name in (RANDOM, THICKEST, PIXEL, f"{MATCHED}, as tens"):
        assert f"control: {name} |" in text
    assert "no cut-off" in text and "random ranking (analytic)" not in text and f"{METRIC} ↑" in text
    assert to_rich(table) is not None and METRIC in to_csv([table]) and '"control' in to_json([table])
    assert "random ranking (analytic)" in to_markdown(build_tables(list(records.values()), "detection-rate@10"))


def test_the_line_of_a_run_names_the_controls(records, capsys, tmp_path):
    from attrbench.cli.run_command import _show
    from attrbench.evaluation.task_run import Result

    _show(Result(records["tens"], tmp_path / "x.json", reused=False))
    line = capsys.readouterr().out
    assert line.startswith("tens on tiny-removal: thinning ")
    assert f"(controls: {RANDOM} " in line and f", {THICKEST} " in line and "@" not in line


def test_a_limited_run_trains_nothing_and_is_told_so(registry, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(removal_task, "train_ddpm", None)
    notes = Notes()
    (record,) = run(registry, tiny_task(folder), ["tens"], tmp_path, notes, limit_queries=2)
    assert record.status == "limited" and record.metric(METRIC) is None and not record.controls
    assert "retraining: left out, as the run is limited" in notes.lines


def test_a_ranking_that_is_too_shallow_fails_with_what_to_do(registry, folder, out, records):
    (record,) = run(registry, tiny_task(folder), ["shallow"], out)
    assert record.status == "failed"
    assert "the rankings, 6 deep, name only 6" in record.error
    assert record.metric("detection-rate@5") is not None  # what was computed stays


def test_the_rankings_are_as_deep_as_the_task_asks_and_the_record_keeps_their_top(registry, folder, out, records):
    assert removal(tiny_task(folder), out / "cache").depth == SMALL["removed"]
    assert Removal(NoOptions()).open(setting(ToyTask(ToyTask.Options()), out / "toy")) is None
    assert RemovalRule("union", 7, 99).depth == 7
    assert RemovalRule("most-retrieved", 7, 99).depth == 99
    assert {len(ids) for ids in records["tens"].ranking} == {ITEMS}  # fewer items than records keep


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


def test_the_shipped_mini_is_what_its_recipe_made():
    task = MnistRemovalMini(RemovalOptions())
    assert is_trained(task.model(), task.recipe())
    images, digits = task.data()
    assert images.shape == (5000, 14, 14, 1) and np.bincount(digits).tolist() == [500] * 10
    opened = task.open(Workspace(task.model(), CPU))
    parameters = dict(opened.denoiser.module.named_parameters())
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    assert sum(path.stat().st_size for path in task.model().rglob("*") if path.is_file()) < 500_000


def test_the_papers_numbers_are_the_defaults_of_the_full_task():
    options = PaperRemovalOptions()
    assert (options.generations, options.queries, options.top_k, options.removal) == (5000, 500, 1000, "union")
    assert (options.removed, options.seeds, MnistRemoval.meta.train_items) == (14_562, 3, 60_000)


def test_wrong_options_are_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="more than the 10 generations"):
        RemovalOptions(generations=10, queries=11)
    with pytest.raises(UsageError, match="would leave nothing"):
        tiny_task(folder, removed=ITEMS).open(Workspace(tmp_path, None))


def test_without_a_model_the_full_task_says_how_to_train_one(tmp_path):
    for options in ({}, {"model": str(tmp_path)}):
        with pytest.raises(AttrbenchError, match="attrbench train mnist-removal --out"):
            MnistRemoval(PaperRemovalOptions(**options)).open(Workspace(tmp_path, None))


@pytest.mark.parametrize("names", [("x_train", "y_train"), ("x", "y")])
def test_mnist_comes_from_a_file(tmp_path, names):
    images, digits = np.arange(3 * 784).reshape(3, 28, 28).astype(np.uint8), np.array([5, 0, 4], np.uint8)
    np.savez(tmp_path / "m.npz", **dict(zip(names, (images, digits), strict=True)))
    loaded, labels = load_mnist(str(tmp_path / "m.npz"), 3)
    assert np.array_equal(loaded[..., 0], images) and labels.tolist() == [5, 0, 4] and labels.dtype == np.int64
    with pytest.raises(AttrbenchError, match=r"is uint8 \(4, 28, 28\)"):
        load_mnist(str(tmp_path / "m.npz"), 4)


def test_files_that_are_not_mnist_are_named_in_one_line(tmp_path):
    with pytest.raises(AttrbenchError, match="there is no such file"):
        load_mnist(str(tmp_path / "none.npz"), 3)
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    with pytest.raises(AttrbenchError, match="no readable"):
        load_mnist(str(tmp_path / "bad.npz"), 3)
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    with pytest.raises(AttrbenchError, match="holds a, not x_train"):
        load_mnist(str(tmp_path / "other.npz"), 3)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AttrbenchError, match="dataset=FILE") as caught:
        load_mnist("nobody/no-such-data", 3)
    assert "\n" not in str(caught.value)


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


def test_a_single_training_seed_has_no_interval_and_ranks_nobody(registry, folder, out):
    found = run(registry, tiny_task(folder, seeds=1), ["pixel", "tens"], out)
    for record in found:
        main = record.metric(METRIC)
        assert (main.low, main.high, main.noise) == (None, None, None)
    assert ranks(found[0], shifted(found[1], 10.0)) == [1, 1]


def test_methods_are_told_apart_where_they_differ_by_more_than_training_does(records):
    first = records["tens"]
    error = first.metric(METRIC).noise.error
    assert ranks(first, shifted(first, 0.5 * error)) == [1, 1]  # picture by picture the same difference
    assert ranks(first, shifted(first, 10 * error)) == [1, 2]


def shifted(record, by):
    """The record as if another method had thinned every picture by so much more."""
    main, *others = record.metrics
    values = [value + by for value in main.per_query]
    thinner = main.model_copy(update={"value": main.value + by, "per_query": values})
    method = record.method.model_copy(update={"name": "shifted", "label": "shifted"})
    return record.model_copy(update={"metrics": [thinner, *others], "method": method})


def ranks(*records):
    (table,) = build_tables(records)
    return [row.rank for row in table.ranked]


def test_the_widest_interval_of_a_shared_control_stands_on_the_leaderboard(records):
    (table,) = build_tables(list(records.values()))
    for name in (RANDOM, THICKEST):
        found = [control.result for record in records.values() for control in record.controls if control.name == name]
        (shown,) = [control.result for control in table.controls if control.name == name]
        assert shown.high - shown.low == max(result.high - result.low for result in found)


def test_a_changed_model_or_data_file_is_another_task(tmp_path):
    (tmp_path / "model").mkdir()
    file, weights = tmp_path / "m.npz", tmp_path / "model" / "weights"
    file.write_text("a")
    weights.write_text("a")
    task = MnistRemoval(PaperRemovalOptions(dataset=str(file), model=str(tmp_path / "model")))
    states = [task.state()]
    for changed in (file, weights):
        changed.write_text("other")
        states.append(task.state())
    assert len({str(state) for state in states}) == 3
