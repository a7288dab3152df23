"""Removal and retraining is a task that any method can run on, with its controls in record and leaderboard."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

import numpy as np
import pytest

from attrbench.conformance.toy_task import ToyTask
from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.method import Method, Scorer, StateSize
from attrbench.contracts.options import Options
from attrbench.contracts.ranking import Ranking
from attrbench.contracts.record import Record
from attrbench.ground_truth.removal import MATCHED, PIXEL, RANDOM, Removal, RemovalRule
from attrbench.ground_truth.removal import RemovalOptions as NoOptions
from attrbench.plugins.registry import Plugin, Registry, load_registry
from attrbench.reports.leaderboard_table import to_csv, to_json, to_markdown
from attrbench.reports.ranking import build_tables
from attrbench.reports.terminal_board import to_rich
from attrbench_tasks.removal import removal_task
from attrbench_tasks.removal.thickness import METRIC
from attrbench_tasks.training.train_ddpm import train_ddpm
from tests.registering import plugin_of
from tests.tasks.removal_model import (
    CONTROLS,
    THICKEST,
    folder,  # noqa: F401
    out,  # noqa: F401
)
from tests.tasks.tiny_removal import ITEMS, SMALL, Notes, removal, run, setting, tiny_task


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
