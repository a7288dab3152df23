"""The command `attrbench criteria` and its API: how alike the metrics of a board order its runs."""

import json

import pytest

from attrbench import api
from attrbench.contracts.record import write_record
from attrbench.errors import UsageError
from attrbench.reports.criteria import criteria_markdown
from tests.cli.conftest import attrbench  # noqa: F401
from tests.reports.test_leaderboard import noisy, record

LIKED = {"pixel": 0.9, "ssim": 0.8, "dmin": 0.5, "kfac": 0.4, "trak": 0.3, "random": 0.1}
TRUE = {"pixel": 0.3, "ssim": 0.2, "dmin": 0.5, "kfac": 0.9, "trak": 0.7, "random": 0.1}


def runs(hostile=""):
    """Return runs that detection rate and LDS order differently."""
    found = []
    for place, name in enumerate(LIKED):
        run = record(name + hostile, noisy(LIKED[name], place))
        (rate,) = run.metrics
        per_query = noisy(TRUE[name], place)
        value = sum(per_query) / len(per_query)
        lds = rate.model_copy(
            update={"metric": "lds", "k": None, "value": value, "per_query": per_query, "criterion": True}
        )
        found.append(run.model_copy(update={"metrics": [lds, rate]}))
    return found


def test_the_first_criterion_is_held_against_the_others_and_the_runs_furthest_apart_are_named():
    (found,) = api.leaderboard(runs()).criteria()
    assert found.metrics[0] == "lds" and len(found.metrics) == 2
    (agreement,) = found.agreements.values()
    assert agreement.runs == 6 and -1 <= agreement.low < agreement.value < agreement.high <= 1
    ahead, behind = found.apart(found.metrics[1])
    assert ahead[0][0].method.name == "pixel" and ahead[0][1:] == (4, 1)
    assert {run[0].method.name for run in behind} == {"kfac", "trak"}


def test_the_command_says_it_as_text_markdown_and_json(tmp_path, attrbench):  # noqa: F811
    for run in runs():
        write_record(run, tmp_path)
    text = attrbench("criteria", tmp_path).out
    assert "lds" in text and "pixel (4 → 1)" in text
    assert "| lds |" in attrbench("criteria", tmp_path, "--format", "md").out
    (document,) = json.loads(attrbench("criteria", tmp_path, "--format", "json").out)
    (agreement,) = document["agreements"]
    assert agreement["runs"] == 6 and agreement["metrics"][0] == "lds"


def test_a_board_of_one_criterion_and_a_column_that_is_no_metric_are_told_in_a_line(tmp_path):
    alone = [run.model_copy(update={"metrics": run.metrics[1:]}) for run in runs()]
    assert api.leaderboard(alone).criteria() == [None]
    with pytest.raises(UsageError, match="storage is a column of costs"):
        api.leaderboard(alone).criteria(["storage"])


def test_names_of_methods_are_escaped():
    (found,) = api.leaderboard(runs("|<b>")).criteria()
    lines = criteria_markdown(found)
    assert not any("<b>" in line for line in lines) and all("pixel|" not in line for line in lines)
