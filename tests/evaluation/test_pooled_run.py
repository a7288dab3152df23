"""A run on a task of several models asks each by itself, and its records hold the queries of all."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import attrbench
from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.method import ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options
from attrbench.contracts.record import PART_RUNS, read_records
from attrbench.contracts.task import Workspace
from attrbench.data.thumbnail_sheet import read_thumbnails, sheet_path
from attrbench.errors import Unavailable, UsageError
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.pooled_run import run_on
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import request_methods, request_tasks
from attrbench.evaluation.rescore import rescore
from attrbench.evaluation.task_run import sealed_record
from attrbench.features.images import Images
from attrbench.plugins.registry import registry
from attrbench.store.checksums import seal_path
from tests.evaluation.two_models import ASKED, TwoModels, TwoOptions

SIZES = [len(asked) for asked in ASKED["reported"]]


@pytest.fixture
def run(tmp_path):
    def runs(methods, task=TwoModels, **settings):
        places = {"out": tmp_path / "out", "cache": tmp_path / "cache"}
        return attrbench.run(methods, task, **{**places, "progress": False, **settings})

    return runs


@pytest.fixture(autouse=True)
def _nothing_counted():
    Counting.fits = FailingOnSecond.seen = 0


def opened(folder):
    return TwoModels(TwoOptions()).open(Workspace(folder, torch.device("cpu")))


def test_a_record_holds_the_values_of_each_models_own_run_and_their_mean_over_queries(run, tmp_path):
    record = run(["dmin:v=32,timesteps=2"]).records[0]
    parts = [
        run(["dmin:v=32,timesteps=2"], TwoModels(TwoOptions(model=number)), out=tmp_path / str(number)).records[0]
        for number in (0, 1)
    ]
    assert [len(part.ranking) for part in parts] == SIZES
    assert record.ranking == [*parts[0].ranking, *parts[1].ranking]
    assert record.status == "complete" and record.coverage.queries == record.coverage.queries_total == sum(SIZES)
    for name in ("recall@5", "detection-rate@5", "average-precision"):
        pooled, (a, b) = record.metric(name), (part.metric(name) for part in parts)
        assert pooled.per_query == [*a.per_query, *b.per_query]
        assert pooled.value == pytest.approx(np.mean(pooled.per_query))
        assert pooled.random == pytest.approx((a.random * SIZES[0] + b.random * SIZES[1]) / sum(SIZES))
        assert pooled.low <= pooled.value <= pooled.high
    assert record.storage.rows == parts[0].storage.rows + parts[1].storage.rows


def test_there_is_one_record_a_method_and_the_leaderboard_ranks_it(run, tmp_path):
    results = run(["pixel", "random"])
    records, problems = read_records(tmp_path)  # the cache lies below: records of single models are not among them
    assert not problems and sorted(record.method.name for record in records) == ["pixel", "random"]
    assert {record.task.label for record in records} == {"two-models"}
    (table,) = results.leaderboard().tables
    assert {row.record.method.name for row in table.ranked} == {"pixel", "random"} and table.queries == sum(SIZES)
    assert len(list((tmp_path / "cache" / PART_RUNS).rglob("*.json"))) >= 4


def test_times_of_other_machines_are_a_class_of_hardware_of_their_own_for_parts_and_the_whole(tmp_path):
    (request,), methods = request_tasks(registry(), [TwoModels]), request_methods(registry(), ["pixel"])
    found = {}
    for executor in ("inline", "ray:workers=2"):
        settings = RunSettings(out=tmp_path, cache=tmp_path / "cache", executor=executor)
        run = run_on(registry(), request, methods, settings, Silent())
        found[executor] = {each.records.hardware.hardware_class for each in (run, *run._runs)}
    (here,), (elsewhere,) = found["inline"], found["ray:workers=2"]
    assert elsewhere == f"{here}, and ray:workers=2"


def test_a_method_that_is_passed_over_on_a_model_is_not_tried_on_the_next(tmp_path):
    class Lines(Silent):
        def __init__(self):
            self.said = []

        def note(self, line):
            self.said.append(line)

    lines = Lines()
    requests = request_methods(registry(), ["pixel"]) + [
        replace(request, optional=True) for request in request_methods(registry(), [Absent])
    ]
    settings = RunSettings(out=tmp_path / "out", cache=tmp_path / "cache")
    (result,) = run_on(registry(), request_tasks(registry(), [TwoModels])[0], requests, settings, lines).results()
    assert result.record.method.name == "pixel"
    assert [line for line in lines.said if "absent" in line] == ["passed over absent: no weights of it are here"]
    assert sum(line.startswith("model ") for line in lines.said) == 2


def test_the_cache_says_of_a_part_that_it_is_one_of_several_models(run, tmp_path):
    run(["pixel"])
    paths = [path for path in (tmp_path / "cache" / PART_RUNS).rglob("pixel-*.json") if seal_path(path).is_file()]
    assert [sealed_record(path).seal().summary for path in paths] == ["of one of several models"] * 2


def test_scores_are_those_of_the_models_one_below_the_other(run):
    results = run(["pixel"], keep_scores=True)
    assert results.scores("pixel").shape == (sum(SIZES), TwoModels.meta.train_items)


def test_the_same_run_again_reads_its_records_and_one_that_lost_a_models_record_scores_that_model_alone(run, tmp_path):
    (first,) = run([Counting])
    assert not first.reused and Counting.fits == 2
    (again,) = run([Counting])
    assert again.reused and again.record == first.record and Counting.fits == 2
    next(path for path in (tmp_path / "cache" / PART_RUNS).rglob("*.json") if "seal" not in path.name).unlink()
    (repaired,) = run([Counting])
    assert not repaired.reused and Counting.fits == 3
    assert repaired.record.metrics == first.record.metrics


def test_a_method_that_fails_on_one_model_has_a_failed_record_that_names_it(run):
    (result,) = run([FailingOnSecond])
    assert result.record.status == "failed" and not result.record.metrics
    assert "two-models:model=1" in result.record.error and "cannot do it twice" in result.record.error


def test_the_metrics_of_a_record_follow_from_its_rankings_and_the_opened_task(run, tmp_path):
    record = run(["pixel"]).records[0]
    found = rescore(registry(), record, opened(tmp_path / "cache"), pytest.fail)
    assert not found.wrong and len(record.query_groups) == sum(SIZES)


def test_the_thumbnail_sheet_has_the_queries_of_all_models(run, tmp_path):
    record = run(["pixel"]).records[0]
    sheet = read_thumbnails(sheet_path(tmp_path / "out", record.task.name, record.task.fingerprint))
    assert sorted(sheet.queries) == list(range(sum(SIZES)))


def test_what_needs_one_model_is_refused_with_the_name_of_one(tmp_path):
    with pytest.raises(UsageError, match=r"task two-models is 2 models: .* two-models:model=0"):
        _ = opened(tmp_path).denoiser
    with pytest.raises(UsageError, match="two-models:model=0"):
        attrbench.attribute("pixel", TwoModels, prompts="picture 0", cache=tmp_path, progress=False)


def test_options_are_chosen_on_the_tuning_queries_of_all_models(tmp_path):
    tuned = attrbench.tune(
        ["pixel:similarity=cosine|l2"], TwoModels, out=tmp_path / "out", cache=tmp_path / "cache", progress=False
    )
    assert tuned.choices[0].tuned.queries == 2
    assert [record.coverage.queries for record in tuned.records] == [sum(SIZES)]


def test_a_dry_run_plans_every_model_and_writes_no_record(run, tmp_path):
    assert len(run(["dmin:v=32"], dry_run=True)) == 0
    assert not list((tmp_path / "out").rglob("*.json")) if (tmp_path / "out").exists() else True


def test_a_dry_run_names_the_record_of_all_models_that_is_there(run):
    (made,) = run(["pixel"])
    (there,) = run(["pixel", "dmin:v=32"], dry_run=True)
    assert there.reused and there.record == made.record


def test_each_model_is_checked_by_itself(tmp_path):
    reports = attrbench.check(tasks=TwoModels, cache=tmp_path)
    assert [report.label for report in reports] == ["two-models:model=0", "two-models:model=1"]
    for report, asked in zip(reports, SIZES, strict=True):
        assert f"{asked} queries" in report.findings[0].found and report.findings[0].status == "passed"


class Counting(Method[Options]):
    """Ranks by brightness, and counts how often it was fitted."""

    name = "counting"
    summary = "brightness"
    Options = Options
    fits = 0

    def features(self):
        return FeatureRequest.both(Images())

    def fit(self, train, context):
        Counting.fits += 1
        return Brightness(train[Images()].mean(axis=(1, 2, 3)))


class FailingOnSecond(Counting):
    """The same, with an error on the second model."""

    name = "failing-on-second"
    seen = 0

    def fit(self, train, context):
        FailingOnSecond.seen += 1
        if FailingOnSecond.seen > 1:
            raise RuntimeError("cannot do it twice")
        return super().fit(train, context)


class Brightness(ExhaustiveScorer):
    def __init__(self, means):
        self._means = means

    def scores(self, query):
        return -abs(query[Images()].mean(axis=(1, 2, 3))[:, None] - self._means[None]).astype("f4")

    def size(self):
        return StateSize(rows=self._means.nbytes)


class Absent(Counting):
    """Cannot work here, on any model."""

    name = "absent"

    def check(self, train_items):
        raise Unavailable("no weights of it are here")
