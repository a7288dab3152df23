"""Records that exist are listed, shown, checked, removed, scored again and reproduced."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from attrbench.contracts.metric import Metric, PerQuery
from attrbench.contracts.record import read_records
from attrbench.contracts.record_files import read_record
from attrbench.plugins.registry import Plugin, registry
from tests.registering import plugin_of

PUBLISHED = Path(__file__).parents[2] / "leaderboards" / "digits-mini"
PIXEL = next(PUBLISHED.glob("pixel-*.json"))


def changed(folder, **parts):
    """Write the published record of `pixel` with other parts and no checksum, and return its path."""
    document = json.loads(PIXEL.read_text())
    del document["check"]
    for name, part in parts.items():
        document[name] = document[name] | part if isinstance(part, dict) else part
    path = folder / "digits-mini" / PIXEL.name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def test_a_list_and_a_record_begin_with_what_ranks_the_board(attrbench):
    assert "lds 0.166 [0.120, 0.212]" in attrbench("records", "ls", PIXEL).out
    (entry,) = json.loads(attrbench("records", "ls", PIXEL, "--json").out)
    assert (entry["metric"], round(entry["value"], 3)) == ("lds", 0.166)
    lines = attrbench("show", PIXEL).out.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("metrics")) + 1
    assert [line.split()[0] for line in lines[first : first + 3]] == ["lds", "group-top1", "detection-rate@10"]


def test_a_leaderboard_of_one_file_has_that_record(attrbench):
    done = attrbench("leaderboard", PIXEL, "--format", "csv")
    assert done.code == 0 and len(done.out.splitlines()) == 2
    assert attrbench("leaderboard", PIXEL.parent / "none.json").complaint


@pytest.mark.parametrize("command", [["leaderboard"], ["records", "ls"], ["show", "pixel"]])
def test_commands_on_records_look_where_the_environment_has_runs_write_them(attrbench, tmp_path, monkeypatch, command):
    changed(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTRBENCH_OUT", str(tmp_path / "digits-mini"))
    done = attrbench(*command)
    assert done.code == 0 and "pixel" in done.out


def test_show_tells_result_cost_machine_and_command(attrbench):
    out = attrbench("show", PIXEL).out
    for text in ("pixel, version 1", "2 cores", "storage", "commit "):
        assert text in out
    assert re.search(r"detection-rate@10 +0\.937 \[0\.898, 0\.967\]", out)
    assert re.search(r"\blds +0\.166 \[0\.120, 0\.212\]", out)
    command = "attrbench run -m pixel -t digits-mini --ground-truth leave-k-out:k=50,queries=10,seeds=1"
    assert re.search(rf"^command +{re.escape(command)}$", out, re.MULTILINE)
    assert attrbench("show", "pixel", "--records", PUBLISHED).out == out
    assert attrbench("show", read_record(PIXEL).record.identity[:8], "--records", PUBLISHED).out == out


def test_what_is_copied_out_of_show_is_in_one_line_on_a_narrow_terminal(attrbench, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = attrbench("show", PIXEL).out.splitlines()
    record = read_record(PIXEL).record
    assert {line.split(maxsplit=1)[1] for line in lines if line.startswith(("command", "file"))} == {
        record.command,
        str(PIXEL),
    }
    assert any(line.startswith(" " * 10 + "torch") for line in lines)


def test_show_of_a_query_has_its_ranking_and_values(attrbench):
    done = attrbench("show", PIXEL, "--query", "3", "-k", "4")
    record = read_record(PIXEL).record
    assert f"strongest first: {', '.join(map(str, record.ranking[3][:4]))}\n" in done.out
    assert attrbench("show", PIXEL, "--query", "1000").code == 2


def test_records_of_methods_that_nobody_registers_are_read_listed_and_shown(attrbench, tmp_path):
    path = changed(
        tmp_path, method={"name": "unheard", "label": "unheard:k=1", "distribution": "attrbench-unheard 0.1.0"}
    )
    line = "unknown method 'unheard': its record names the distribution attrbench-unheard 0.1.0"
    for verb in (("show", path), ("records", "ls", tmp_path)):
        done = attrbench(*verb)
        assert done.code == 0 and line in " ".join(done.out.split()) and "unheard:k=1" in done.out
    assert "unheard:k=1" in attrbench("leaderboard", tmp_path).out


def test_ls_lists_every_record_with_its_result(attrbench):
    lines = attrbench("records", "ls", PUBLISHED).out.splitlines()
    count = len(list(PUBLISHED.glob("*.json")))
    assert len(lines) == count + 2 and lines[-1] == f"{count} records"
    assert any("pixel" in line and "lds 0.166 [0.120, 0.212]" in line for line in lines)
    assert len(json.loads(attrbench("records", "ls", PUBLISHED, "--json").out)) == count


def test_rm_removes_what_is_named_and_nothing_else(attrbench, tmp_path):
    path = changed(tmp_path)
    other = tmp_path / "digits-mini" / "other.json"
    other.write_text(next(PUBLISHED.glob("random-*.json")).read_text())
    assert "would remove" in attrbench("records", "rm", "pixel", "--records", tmp_path, "--dry-run").out
    assert path.exists()
    assert attrbench("records", "rm", "pixel", "--records", tmp_path).code == 0
    assert not path.exists() and other.exists()
    assert attrbench("records", "rm", "pixel", "--records", tmp_path).complaint
    (tmp_path / "double.json").write_text(other.read_text())
    assert "may be any of 2 records" in attrbench("records", "rm", "random", "--records", tmp_path).complaint[0]
    assert attrbench("records", "rm", tmp_path / "nothing.json").code != 0


WRONG = {
    "fingerprint": ({"task": {"fingerprint": "0" * 64}}, "the fingerprint of its task is 0000000000"),
    "status": ({"status": "partial"}, "its status is partial"),
    "coverage": ({"coverage": {"queries_total": 200}}, "100 of 200 queries"),
    "package": ({"method": {"distribution": "notebook"}}, "a package and its version are needed"),
    "identity": ({"identity": "mine"}, "its identity is no hash"),
    "uncommitted": ({"provenance": {"git_dirty": True}}, "uncommitted changes"),
    "command": ({"command": "attrbench run -m pixel; rm x"}, "its command"),
    "unknown task": ({"task": {"name": "mine", "label": "mine"}}, "its task can't be opened here"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_record_that_cannot_join_a_board_is_refused_with_a_line_that_says_why(attrbench, tmp_path, cache, kind):
    parts, reason = WRONG[kind]
    done = attrbench("records", "verify", changed(tmp_path, **parts), "--cache", cache)
    assert done.code == 1 and done.out.startswith(f"{tmp_path}") and ": refused: " in done.out and reason in done.out
    assert "0 of 1 records can join" in done.out


def test_a_damaged_file_in_a_folder_is_refused_as_well(attrbench, tmp_path, cache):
    path = changed(tmp_path)
    (tmp_path / "half.json").write_text(path.read_text()[: path.stat().st_size // 2])
    done = attrbench("records", "verify", tmp_path, "--cache", cache)
    assert done.code == 1 and "half.json: damaged, not JSON" in done.out and "1 of 2 records can join" in done.out


def test_values_that_the_rankings_contradict_are_refused(attrbench, tmp_path, cache):
    document = json.loads(PIXEL.read_text())
    good = next(metric for metric in document["metrics"] if metric["metric"] == "recall" and metric["k"] == 10)
    good |= {"value": 1.0, "low": 1.0, "high": 1.0, "per_query": [1.0] * len(good["per_query"])}
    done = attrbench("records", "verify", changed(tmp_path, metrics=document["metrics"]), "--cache", cache)
    assert done.code == 1 and "its recall@10 is not what its rankings give" in done.out
    document["metrics"][0]["value"] += 0.01
    done = attrbench("records", "verify", changed(tmp_path, metrics=document["metrics"]), "--cache", cache)
    assert "is not the mean of the queries' values" in done.out


def test_a_record_whose_retrained_models_are_others_than_those_here_is_refused(attrbench, tmp_path, cache):
    facts = json.loads(PIXEL.read_text())["facts"] | {"lds_subsets": 8.0}
    done = attrbench("records", "verify", changed(tmp_path, facts=facts), "--cache", cache)
    assert done.code == 1 and "its lds_subsets is 8, and that of the models here is" in done.out


def test_a_main_metric_that_needs_all_scores_may_be_missing_and_one_that_rankings_give_may_not(
    attrbench, tmp_path, cache
):
    metrics = [m for m in json.loads(PIXEL.read_text())["metrics"] if m["metric"] != "average-precision"]
    top_only = changed(tmp_path, metrics=metrics, task={"main_metric": "average-precision"})
    assert attrbench("records", "verify", top_only, "--cache", cache).code == 0
    metrics = [m for m in metrics if m["metric"] != "detection-rate"]
    done = attrbench("records", "verify", changed(tmp_path, metrics=metrics), "--cache", cache)
    assert done.code == 1 and "lacks its task's main metric detection-rate@10, which its rankings give" in done.out


def test_a_record_of_another_package_on_another_machine_joins(attrbench, tmp_path, cache):
    path = changed(tmp_path, method={"distribution": "attrbench-star 0.1.0"}, hardware={"hardware_class": "H200"})
    done = attrbench("records", "verify", path, "--cache", cache)
    assert done.code == 0 and done.out == "1 of 1 records can join a board\n"


class FirstIsRelevant(Metric):
    name = "first-is-relevant"
    summary = "whether the first item is of the query's group"

    def compute(self, outcome, cutoffs):
        rows = np.arange(len(outcome.ranked))
        return [PerQuery(outcome.relevant[rows, outcome.ranked[:, 0]].astype(float))]


class HighestScore(Metric):
    name = "highest-score"
    summary = "the highest score"

    def compute(self, outcome, cutoffs):
        return [] if outcome.scores is None else [PerQuery(outcome.scores.max(axis=1).astype(float))]


@pytest.fixture
def new_metrics():
    registry.cache_clear()
    registry().load(Plugin("mine", "mine", "1"), lambda: plugin_of(metrics=[FirstIsRelevant, HighestScore]))
    yield
    registry.cache_clear()


def test_score_adds_a_new_metric_without_a_run_and_names_what_needs_one(attrbench, tmp_path, cache, new_metrics):
    path = changed(tmp_path)
    before = read_record(path).record
    done = attrbench("score", tmp_path, "--cache", cache)
    assert done.code == 0 and "pixel on digits-mini: added first-is-relevant" in done.out
    assert "highest-score gave nothing for 1 records" in done.out and "--rerun" in done.out
    after = read_record(path).record
    groups = dict(zip(range(100), before.query_groups, strict=True))
    assert after.metric("first-is-relevant").value == pytest.approx(
        np.mean([before.metric("detection-rate@5").per_query[query] > 0 for query in groups]), abs=0.1
    )
    assert [metric for metric in after.metrics if metric.name != "first-is-relevant"] == before.metrics
    assert after.identity == before.identity and after.ranking == before.ranking
    assert b'\n "check": "' in path.read_bytes()
    assert "nothing to add" in attrbench("score", tmp_path, "--cache", cache).out
    assert "gave nothing" not in attrbench("score", tmp_path, "--cache", cache).out
    assert "first-is-relevant" in attrbench("leaderboard", tmp_path, "--columns", "method,first-is-relevant").out


def test_a_run_that_reuses_records_says_which_metrics_they_lack(attrbench, tmp_path, cache, request):
    small = ("-t", "digits-mini:queries_per_group=1", "--limit-train", "64", "--out", tmp_path, "--cache", cache)
    first = attrbench("run", "-m", "random", *small)
    assert first.code == 0 and "lack the metrics" not in first.err
    request.getfixturevalue("new_metrics")
    again = attrbench("run", "-m", "random", *small)
    assert "lack the metrics first-is-relevant, highest-score" in again.err and "--rerun" in again.err
    assert "(already there)" in again.out
    attrbench("run", "-m", "random", *small, "--rerun")
    assert "lack the metrics" not in attrbench("run", "-m", "random", *small).err
    assert read_records(tmp_path)[0][0].metric("highest-score") is not None


def parted(folder, without, **parts):
    """A copy of the published record of `pixel` without one metric, and with other parts."""
    folder.mkdir()
    metrics = [metric for metric in json.loads(PIXEL.read_text())["metrics"] if metric["metric"] != without]
    return changed(folder, metrics=metrics, **parts)


def test_a_metric_that_needs_scores_is_taken_from_a_run_of_the_same_that_ranks_alike(attrbench, tmp_path, cache):
    path = parted(tmp_path / "old", "lds-over-others")
    before = read_record(path).record
    parted(tmp_path / "new", "lds-pixels", created="2030-01-01T00:00:00+00:00", facts={"lds_new_ceiling": 0.5})
    done = attrbench("score", path, "--from", tmp_path / "new", "--cache", cache)
    assert done.code == 0 and "added" in done.out and "lds-over-others" in done.out
    after = read_record(path).record
    assert after.metric("lds-over-others") is not None and after.metric("lds-pixels") == before.metric("lds-pixels")
    assert after.created == before.created and after.facts == {**before.facts, "lds_new_ceiling": 0.5}


OTHER_RUNS = {
    "rankings": ({"ranking": [list(range(100))] * 100}, "ranks otherwise"),
    "models": ({"facts": {"lds_subsets": 8.0}}, "other retrained models: its lds_subsets is"),
    "queries": ({"task": {"fingerprint": "0" * 64}}, "of another task"),
    "extent": ({"coverage": {"queries": 50}, "ranking": [list(range(100))] * 50}, "of other items or queries"),
    "options": ({"method": {"options": {"similarity": "l2"}}}, "with the same options"),
    "version": ({"method": {"version": 7}}, "another version of the method"),
}


@pytest.mark.parametrize("kind", OTHER_RUNS)
def test_nothing_is_taken_from_a_run_that_is_not_the_same(attrbench, tmp_path, cache, kind):
    path = parted(tmp_path / "old", "lds-over-others")
    parts, reason = OTHER_RUNS[kind]
    parted(tmp_path / "new", "", **parts)
    done = attrbench("score", path, "--from", tmp_path / "new", "--cache", cache)
    assert done.code == 0 and reason in done.out
    assert read_record(path).record.metric("lds-over-others") is None
    (tmp_path / "none").mkdir()
    assert (
        "there is none of it, with the same options, in"
        in attrbench("score", path, "--from", tmp_path / "none", "--cache", cache).out
    )


def test_what_an_enlarged_bank_says_takes_the_place_of_what_a_record_has_where_that_is_asked_for(
    attrbench, tmp_path, cache
):
    path = parted(tmp_path / "old", "")
    before = read_record(path).record
    more = {**before.facts, "lds_subsets": 64.0, "lds_ceiling": 0.9, "leave_k_out_rise": 7.0}
    other = dict.fromkeys(("lds", "leave-k-out", "detection-rate"), 0.25)
    run_again(tmp_path / "new", other, facts=more, peak_memory_bytes=77, without="lds-top")
    without = attrbench("score", path, "--from", tmp_path / "new", "--cache", cache)
    assert "other retrained models: its lds_" in without.out and read_record(path).record == before
    done = attrbench("score", path, "--from", tmp_path / "new", "--new-models", "--cache", cache)
    assert done.code == 0 and "added lds" in done.out and "nothing of another run" not in done.out
    after = read_record(path).record
    names = [result.name for result in before.metrics if not result.name.startswith("lds-top")]
    assert [result.name for result in after.metrics] == names  # in the order in which they were
    changed_names = [name for name in names if after.metric(name) != before.metric(name)]
    assert changed_names == ["lds"] and after.metric("lds").value == 0.25
    assert after.facts == {**before.facts, "lds_subsets": 64.0, "lds_ceiling": 0.9}
    assert after.peak_memory_bytes == before.peak_memory_bytes and after.ranking == before.ranking
    needs = attrbench("score", path, "--new-models", "--cache", cache)
    assert needs.code == 1 and "--from" in needs.err


def test_nothing_is_replaced_where_the_models_are_the_same_or_fewer(attrbench, tmp_path, cache):
    path = parted(tmp_path / "old", "")
    before = read_record(path).record
    command = ("score", path, "--from", tmp_path / "new", "--new-models", "--cache", cache)
    run_again(tmp_path / "new", {"lds": 0.25})
    assert "nothing to add" in attrbench(*command).out and read_record(path).record == before
    run_again(tmp_path / "new", {"lds": 0.25}, facts={**before.facts, "lds_subsets": 12.0})
    assert "fewer retrained models: its lds_subsets is 12, of 24" in attrbench(*command).out
    assert read_record(path).record == before


def test_a_record_agrees_with_its_own_rankings_after_a_run_that_ranks_otherwise_further_down(
    attrbench, tmp_path, cache
):
    """A larger bank is here, and the later run names other items from the eleventh place on."""
    path = parted(tmp_path / "old", "")
    before = read_record(path).record
    fewer = {**before.facts, "group_seeds": 2.0, "group_top1_ceiling": 0.5}
    stale = [
        {**metric, "value": 0.5, "per_query": [0.5] * 100} if metric["metric"].startswith("group") else metric
        for metric in json.loads(PIXEL.read_text())["metrics"]
    ]
    path = changed(tmp_path / "old", metrics=stale, facts=fewer)
    shifted = [row[:10] + row[50:] + row[10:50] for row in before.ranking]
    run_again(tmp_path / "new", {"group-precision": 0.1}, ranking=shifted)
    assert attrbench("score", path, "--from", tmp_path / "new", "--new-models", "--cache", cache).code == 0
    after = read_record(path).record
    assert after.metric("group-top1") == before.metric("group-top1") and after.facts == before.facts
    assert after.metric("group-precision@10").per_query == before.metric("group-precision@10").per_query
    assert after.ranking == before.ranking


def run_again(folder, values, without="", **parts):
    """A copy of the published record of `pixel` as of another run: with other values of metrics, and other parts."""
    folder.mkdir(exist_ok=True)
    metrics = [
        {
            **metric,
            "value": values[metric["metric"]],
            "per_query": [values[metric["metric"]]] * len(metric["per_query"]),
        }
        if metric["metric"] in values
        else metric
        for metric in json.loads(PIXEL.read_text())["metrics"]
        if metric["metric"] != without
    ]
    return changed(folder, metrics=metrics, **parts)


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf x",
        "attrbench cache gc",
        "attrbench run -m pixel -t digits-mini --out /tmp",
        "attrbench run -m 'pixel",
        "",
    ],
)
def test_no_other_command_of_a_record_is_ever_run(attrbench, tmp_path, cache, command, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *a, **k: pytest.fail("a process was started"))
    done = attrbench("reproduce", changed(tmp_path, command=command), "--cache", cache)
    assert done.code == 1 and "its command" in done.complaint[0]


def test_the_version_is_told_without_a_command(attrbench):
    from attrbench import __version__

    assert attrbench("--version").out == attrbench("-V").out == f"attrbench {__version__}\n"


def test_one_method_is_listed_with_its_options(attrbench):
    out = attrbench("list", "methods", "dmin").out
    assert "dmin" in out and "v=4096:" in out and "cosine, l2" not in out and "?" not in out
    done = attrbench("list", "methods", "dmon")
    assert done.code == 2 and "did you mean dmin" in done.complaint[0]
