"""Comparisons of two runs: paired, by the intervals that boards use, and of the same queries only."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attrbench.contracts.record import read_records, write_record
from attrbench.contracts.record_files import KeptRecord
from attrbench.errors import AttrbenchError, UsageError
from attrbench.metrics.comparisons import better_runs, result_difference
from attrbench.reports.compare import compare_records, pair_records
from tests.cli.conftest import attrbench  # noqa: F401
from tests.reports.test_leaderboard import noisy, record

PUBLISHED = Path(__file__).parents[2] / "leaderboards"


@pytest.fixture(scope="module")
def published():
    return read_records(PUBLISHED)[0]


@pytest.mark.parametrize("task", ["ddpm-icons-mini", "mnist-removal-mini"])
def test_one_run_is_better_than_another_where_the_board_counts_it_as_better(published, task):
    runs = [record for record in published if record.task.name == task]
    results = [run.metric(run.task.main_metric) for run in runs]
    counts = np.zeros(len(runs), dtype=int)
    for place, own in enumerate(results):
        for other in results:
            interval = result_difference(other, own)
            counts[place] += interval is not None and interval[0] > 0
    assert counts.tolist() == better_runs(results).tolist() and counts.any()


def with_rankings(run, rankings):
    return run.model_copy(update={"ranking": rankings, "query_groups": ["g"] * len(rankings)})


def test_wins_overlap_and_the_queries_that_differ_most_are_those_of_the_rankings():
    a = with_rankings(record("a", [1.0, 0.5, 0.2, 0.2]), [[0, 1], [2, 3], [4, 5], [6, -1]])
    b = with_rankings(record("b", [0.0, 0.5, 0.4, 0.1]), [[0, 2], [2, 3], [7, 8], [-1, -1]])
    found = compare_records(a, b, disagreements=2)
    (difference,) = found.differences
    assert difference.value == pytest.approx(0.225) and difference.wins == (2, 1, 1)
    assert found.overlap == pytest.approx((1 + 2 + 0 + 0) / 40)
    assert [(each.query, each.shared) for each in found.disagreements] == [(0, 1), (2, 0)]


def test_of_a_metric_that_is_better_when_smaller_the_lower_run_is_better_and_wins():
    def lower(run):
        return run.model_copy(update={"metrics": [run.metrics[0].model_copy(update={"higher_is_better": False})]})

    (difference,) = compare_records(lower(record("a", noisy(0.2))), lower(record("b", noisy(0.7)))).differences
    assert difference.better == "A" and difference.wins[0] == 40


def test_runs_that_are_not_separated_are_not_called_better():
    a, b = noisy(0.5), noisy(0.5, 1)
    assert compare_records(record("a", a), record("b", b)).differences[0].better == ""


def test_an_interval_that_begins_at_0_but_for_rounding_separates_nothing():
    (found,) = compare_records(record("a", noisy(0.6)), record("b", noisy(0.4))).differences
    assert replace(found, interval=(1e-18, 0.05)).better == "" == replace(found, interval=(-0.05, -1e-18)).better
    assert replace(found, interval=(1e-6, 0.05)).better == "A"


def test_runs_of_other_queries_are_never_paired():
    with pytest.raises(AttrbenchError, match="can't be paired"):
        compare_records(record("a", noisy(0.5)), record("b", noisy(0.5), task="u"))
    with pytest.raises(AttrbenchError, match=r"\(\d+ items, 40 queries and \d+ items, 30 queries\)"):
        compare_records(record("a", noisy(0.5)), record("b", noisy(0.5, n=30)))


def test_a_run_of_some_training_items_is_paired_with_none_of_all_nor_takes_its_place():
    whole, other = record("a", noisy(0.5)), record("b", noisy(0.5, 1))
    coverage = whole.coverage.model_copy(update={"train_items": 1})
    limited = whole.model_copy(update={"coverage": coverage, "created": "2999-01-01T00:00:00+00:00"})
    with pytest.raises(AttrbenchError, match="1 items, 40 queries and"):
        compare_records(limited, other)
    ((first, _),) = pair_records(kept(whole, limited), kept(other), by_method=False)
    assert first == whole


def kept(*records):
    return [KeptRecord(Path("x"), record) for record in records]


def test_a_name_of_several_methods_is_refused_and_of_repeated_runs_the_newest_counts():
    old, new = record("a", noisy(0.2), created="1"), record("a", noisy(0.4), created="2")
    other = record("b", noisy(0.5))
    assert pair_records(kept(new, old), kept(other), by_method=False) == [(new, other)]
    with pytest.raises(UsageError, match="several methods are meant on t: a and b"):
        pair_records(kept(old, other), kept(other), by_method=False)


def test_two_folders_are_paired_method_by_method():
    runs = [record(label, noisy(0.5)) for label in "abc"]
    pairs = pair_records(kept(*runs), kept(*runs[1:]), by_method=True)
    assert [(a.method.label, b.method.label) for a, b in pairs] == [("b", "b"), ("c", "c")]


def test_the_command_takes_methods_files_and_folders(attrbench, tmp_path):  # noqa: F811
    folder = PUBLISHED / "ddpm-mnist-mini"
    done = attrbench("compare", "dmin:v=4096", "pixel", "--records", PUBLISHED, "-t", "ddpm-mnist-mini")
    lines = done.out.splitlines()
    assert lines[0] == "ddpm-mnist-mini v1, 100 queries, paired" and max(map(len, lines)) <= 80
    assert "detection-rate@10   0.334  0.740  -0.406  [-0.479, -0.339]       B     10/83/7" in lines
    files = [next(folder.glob(f"{name}*.json")) for name in ("dmin-v=4096", "pixel")]
    assert attrbench("compare", *files).out == done.out
    write_record(read_records(folder)[0][0], tmp_path)
    assert "1 pairs, 0 of them told apart" in attrbench("compare", folder, tmp_path).out
    (found,) = json.loads(attrbench("compare", *files, "--json", "--queries", "2").out)
    assert found["differences"][0]["wins"] == {"a": 10, "b": 83, "equal": 7} and len(found["disagreements"]) == 2


def test_the_command_refuses_what_it_cannot_pair_in_one_line(attrbench):  # noqa: F811
    files = [next(PUBLISHED.glob(f"{task}-mini/pixel-*.json")) for task in ("digits", "sd3-lora")]
    for arguments, code, text in (
        (("dmin", "pixel", "-t", "ddpm-mnist-mini"), 2, "several methods are meant on ddpm-mnist-mini"),
        (("dmon", "pixel"), 2, "unknown record 'dmon': did you mean"),
        (("random", "lissa", "-t", "mnist-removal-mini"), 2, "unknown record 'random'"),
        ((files[0], files[1]), 1, "no two records are of the same data and queries"),
        (("dmin:v=4096", "pixel", "-t", "ddpm-mnist-mini", "--metric", "recal"), 2, "unknown metric that both have"),
    ):
        done = attrbench("compare", *arguments, "--records", PUBLISHED)
        assert done.code == code and len(done.complaint) == 1 and text in done.complaint[0]
