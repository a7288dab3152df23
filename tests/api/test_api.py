"""The public functions and the results that they return."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageColor

import attrbench
from attrbench.errors import AttrbenchError, UsageError
from attrbench.reports.printed import WIDE


@pytest.fixture
def results(toy):
    return attrbench.run(["random", "pixel"], toy, progress=False)


def best_first(results):
    """The names of the methods by the metric that ranks."""
    rates = {record.method.name: record.metric("detection-rate@10").value for record in results.records}
    return sorted(rates, key=rates.get, reverse=True)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, attrbench; dir(attrbench); print({'torch', 'numpy', 'pydantic', 'pluggy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_importing_the_functions_imports_no_torch():
    code = "import sys; from attrbench import run, check, leaderboard; print({'torch', 'diffusers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_methods_and_tasks_are_known_without_the_libraries_of_models():
    """A command that finds all results in its records must not wait seconds for diffusers and transformers."""
    code = (
        "import sys; from attrbench.plugins.registry import registry; known = registry()\n"
        "[known.method(name) for name in known.names('method')]; [known.task(name) for name in known.names('task')]\n"
        "print({'diffusers', 'peft', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", attrbench.__all__)
def test_every_public_name_is_there_and_listed(name):
    assert getattr(attrbench, name) is not None
    assert name in dir(attrbench)


def test_type_checkers_see_the_names_that_are_loaded():
    import ast
    from pathlib import Path

    tree = ast.parse(Path(attrbench.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in guarded.body for alias in node.names}
    assert seen == attrbench._MODULES
    assert {*seen, "__version__"} == {*attrbench.__all__}


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        attrbench.runn  # noqa: B018


def test_results_give_records_rankings_and_scores(results, toy):
    assert len(results) == 2 and [r.method.name for r in results.records] == ["random", "pixel"]
    scores, ranking = results.scores("pixel"), results.rankings("pixel")
    assert scores.shape == (len(ranking), len(results._open("attrbench-check").train))
    first = np.argsort(-scores[0], kind="stable")[: ranking.shape[1]]
    assert ranking[0].tolist() == first.tolist()
    assert all(path.is_file() for path in results.paths)
    assert repr(results) == "<Results of attrbench-check: 2 complete>"


@pytest.mark.parametrize("columns", [None, "80"])
def test_results_and_answers_are_printed_as_the_terminal_shows_them(results, toy, monkeypatch, columns):
    monkeypatch.delenv("COLUMNS", raising=False) if columns is None else monkeypatch.setenv("COLUMNS", columns)
    board, width = str(results), int(columns or WIDE)
    assert board == str(results.leaderboard()) and board.startswith("attrbench-check v1, ranked by")
    assert {"pixel", "random"} <= set(board.split()) and board[-1] != "\n"
    answer = attrbench.attribute("pixel", toy, picture_seed=0, k=3, progress=False)
    shown = str(answer)
    assert [f"{score:.6g}" in shown for score in answer.ranking.scores[0]] == [True] * 3
    assert all(str(item) in shown.split() for item in answer.ranking.ids[0])
    assert max(len(line) for line in f"{board}\n{shown}".splitlines()) <= width


def test_a_dry_run_names_what_is_there_and_plans_the_rest(results, toy, capsys):
    there = attrbench.run(["pixel", "dmin:v=64,timesteps=1"], toy, dry_run=True)
    assert [result.record.method.name for result in there] == ["pixel"] and there[0].reused
    plan = capsys.readouterr().err
    assert "serves dmin:v=64,timesteps=1" in plan and "pixel" not in plan
    assert repr(attrbench.run("random:draw=9", toy, dry_run=True)) == str(
        attrbench.run("random:draw=9", toy, dry_run=True)
    )


def test_scores_of_a_record_that_was_there_need_a_rerun(results, toy):
    again = attrbench.run("pixel", toy, progress=False)
    assert again[0].reused
    with pytest.raises(AttrbenchError, match="rerun=True"):
        again.scores("pixel")
    assert np.array_equal(again.rankings("pixel"), results.rankings("pixel"))
    rerun = attrbench.run("pixel", toy, progress=False, rerun=True)
    assert np.array_equal(rerun.scores("pixel"), results.scores("pixel"))


def test_an_index_search_has_no_scores_and_says_so(toy):
    results = attrbench.run("dmin:v=64,timesteps=1,search=hnsw", toy, progress=False)
    with pytest.raises(AttrbenchError, match="searches an index"):
        results.scores("dmin")
    assert results.rankings("dmin").shape[0] > 0


def test_a_wrong_name_is_answered_with_the_nearest(results, toy):
    with pytest.raises(UsageError, match="did you mean pixel"):
        results.scores("pixl")
    with pytest.raises(UsageError, match="did you mean random"):
        attrbench.run("randm", toy)
    with pytest.raises(UsageError, match="no query 99"):
        results.pictures(99, "pixel")


def test_pictures_show_the_query_and_its_training_images_in_order(results):
    from attrbench.reports.contact_sheet import GAP, QUERY_COLOR, TILE, picture_of

    picture = results.pictures(1, "pixel", k=3)
    assert isinstance(picture, Image.Image) and picture._repr_png_().startswith(b"\x89PNG")
    opened = results._open("attrbench-check")
    expected = [opened.queries.images[1], *opened.train.images[results.rankings("pixel")[1, :3]]]
    red = (np.asarray(picture) == ImageColor.getrgb(QUERY_COLOR)).all(axis=2)
    top = int(red.sum(axis=1).argmax()) + GAP // 2  # below the heading
    for place, pixels in enumerate(expected):
        tile = np.asarray(picture)[top : top + TILE, GAP + place * (TILE + GAP) :][:, :TILE]
        assert np.array_equal(tile, np.asarray(picture_of(pixels)))
    rows = [results.pictures(list(range(count)), "pixel", k=3).height for count in (1, 2, 3)]
    assert picture.height == rows[0] and rows[2] - rows[1] == rows[1] - rows[0] > TILE


def test_a_leaderboard_draws_itself_with_all_text_escaped(results):
    html = results._repr_html_()
    assert html == attrbench.leaderboard(results)._repr_html_() and "<table" in html and "<script" not in html
    record = results.records[0]
    evil = record.model_copy(update={"method": record.method.model_copy(update={"label": "<img src=x onerror=y>"})})
    html = attrbench.leaderboard([evil])._repr_html_()
    assert "<img" not in html and "&lt;img src=x onerror=y&gt;" in html


def test_a_leaderboard_reads_folders_records_and_results(results, tmp_path):
    for given in ((), tmp_path / "results", [str(tmp_path / "results")], results.records, results):
        board = attrbench.leaderboard(given)
        assert [row.record.method.name for table in board.tables for row in table.ranked] == best_first(results)
    assert attrbench.leaderboard(metric="average-precision").tables[0].metric == "average-precision"
    with pytest.raises(UsageError, match="unknown metric"):
        attrbench.leaderboard(metric="nothing")
    with pytest.raises(AttrbenchError, match="no folder"):
        attrbench.leaderboard(tmp_path / "nowhere")


def test_a_file_that_is_no_record_is_left_out_with_a_warning(results, tmp_path, caplog):
    (tmp_path / "results" / "broken.json").write_text("{")
    assert len(attrbench.read_records()) == 2
    assert "left out" in caplog.text and "broken.json" in caplog.text


def test_a_data_frame_has_a_row_for_each_run(results):
    pytest.importorskip("pandas")
    frame = results.to_pandas()
    assert frame["method"].tolist() == ["random", "pixel"] and frame["detection-rate@10"].between(0, 1).all()
    assert attrbench.leaderboard(results).to_pandas()["method"].tolist() == best_first(results)


def test_without_pandas_one_line_says_what_to_do(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(AttrbenchError, match="pip install pandas"):
        results.to_pandas()


def test_each_result_is_told_of_as_it_comes(toy):
    seen = []
    results = attrbench.run(["random", "pixel"], toy, progress=False, on_result=seen.append)
    assert seen == list(results)


def test_a_dry_run_computes_nothing(toy, tmp_path, capsys):
    results = attrbench.run("dmin:v=64,timesteps=1", toy, dry_run=True)
    assert len(results) == 0 and "shards to compute" in capsys.readouterr().err
    assert not list((tmp_path / "results" / "attrbench-check").glob("*"))
    assert not list((tmp_path / "results" / "cache").rglob("*.rows*"))


def test_progress_is_shown_on_standard_error_and_can_be_silenced(toy, capsys):
    attrbench.run("random", toy)
    assert "scoring" in capsys.readouterr().err
    attrbench.run("random", toy, rerun=True, progress=False)
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


def test_attribute_takes_pictures_and_shows_a_contact_sheet(toy, tmp_path):
    opened = attrbench.open_task(toy)
    picture = Image.fromarray(opened.train.images[5].squeeze())
    picture.save(tmp_path / "a.png")
    answer = attrbench.attribute("pixel", toy, images=[picture, tmp_path / "a.png"], k=4, progress=False)
    assert answer.ranking.ids.shape == (2, 4) and answer.ranking.ids[:, 0].tolist() == [5, 5]
    assert answer._repr_png_().startswith(b"\x89PNG")
    assert repr(answer) == "<Attribution of 2 pictures on attrbench-check by pixel: k = 4>"
    with pytest.raises(UsageError, match="one method and one task"):
        attrbench.attribute("all", toy, images=picture)


def test_check_reports_on_a_method_by_name():
    seen = []
    (report,) = attrbench.check("pixel", on_finding=seen.append)
    assert report.status == "passed" and list(report.findings) == seen


def test_tuning_a_task_without_tuning_queries_is_refused(toy):
    with pytest.raises(UsageError, match="has no tuning queries"):
        attrbench.tune("d-trak:damping=0.1|1", toy, progress=False)
    with pytest.raises(UsageError, match="nothing to choose from"):
        attrbench.tune("d-trak", toy, progress=False)
