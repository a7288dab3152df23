"""`attrbench report` makes a file of records and their pictures, and tells in one line what it can't do."""

import json
import re

import pytest

import attrbench as package
from tests.cli.conftest import SMALL


@pytest.fixture
def run(attrbench, tmp_path, cache):
    def run(*methods, out="records"):
        parts = [part for method in methods for part in ("-m", method)]
        done = attrbench("run", *parts, *SMALL, "--out", tmp_path / out, "--cache", cache)
        assert done.code == 0, done.err
        return tmp_path / out

    return run


def pictures(path):
    return set(re.findall(r'"(data:image/[^"]*)"', path.read_text(encoding="utf-8")))


def test_runs_leave_what_a_report_shows_and_folders_are_joined(attrbench, run, tmp_path):
    one, two = run("pixel", out="one"), run("random", out="two")
    done = attrbench("report", one, two, "-o", tmp_path / "both.html")
    assert done.code == 0 and re.fullmatch(rf"{tmp_path}/both.html: [\d.]+ kB\n", done.out), done.err
    attrbench("report", one, "-o", tmp_path / "one.html")
    html = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "pixel" in html and "random" in html and "limited: 128 of 1500 items" in html
    assert pictures(tmp_path / "both.html") > pictures(tmp_path / "one.html") > set()
    attrbench("report", one, "-o", tmp_path / "small.html", "--format", "html:k=1,queries=2")
    assert 2 <= len(pictures(tmp_path / "small.html")) <= 4


def test_python_makes_the_same_report_of_folders_and_of_results(run, tmp_path, cache, attrbench):
    folder = run("pixel")
    attrbench("report", folder, "-o", tmp_path / "cli.html")
    assert package.report(folder, tmp_path / "python.html") == tmp_path / "python.html"
    limits = {"limit_train": 128, "progress": False, "out": folder, "cache": cache}
    results = package.run("pixel", "digits-mini:queries_per_group=1", **limits)
    package.report(results, tmp_path / "results.html")
    texts = {(tmp_path / f"{name}.html").read_bytes() for name in ("cli", "python", "results")}
    assert len(texts) == 1


def test_a_damaged_sheet_is_named_and_left_out(attrbench, run, tmp_path):
    folder = run("pixel")
    (sheet,) = folder.rglob("thumbnails-*.zip")
    sheet.write_bytes(sheet.read_bytes()[:-30])
    done = attrbench("report", folder, "-o", tmp_path / "r.html")
    assert done.code == 0 and f"left out {sheet}" in done.err
    assert pictures(tmp_path / "r.html") == set() and "No pictures" in (tmp_path / "r.html").read_text(encoding="utf-8")


WRONG = {
    "an ending that no report has": (
        ["-o", "r.pdf"],
        "no report has this ending; name one with --format: html (.html)",
    ),
    "an ending that is not the report's": (["-o", "r.txt", "--format", "html"], "the report html is a .html file"),
    "an unknown report": (["-o", "r.html", "--format", "htm"], "unknown report 'htm': did you mean html?"),
    "an unknown option": (["-o", "r.html", "--format", "html:kk=1"], "kk"),
    "a wrong value": (["-o", "r.html", "--format", "html:k=0"], "greater than or equal to 1"),
    "a sweep": (["-o", "r.html", "--format", "html:k=1|2"], "no a|b"),
    "an unknown task": (["-o", "r.html", "-t", "digit-mini"], "did you mean digits-mini"),
    "an unknown metric": (["-o", "r.html", "--metric", "recal@5"], "unknown metric among the records"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_usage_is_told_in_one_line(attrbench, run, tmp_path, monkeypatch, kind):
    folder = run("pixel")
    monkeypatch.chdir(tmp_path)
    arguments, told = WRONG[kind]
    done = attrbench("report", folder, *arguments)
    assert done.code == 2 and len(done.complaint) == 1 and told in done.complaint[0], done.err
    assert not list(tmp_path.glob("r.*"))


def test_a_folder_or_a_place_that_is_not_there_is_told_in_one_line(attrbench, run, tmp_path):
    done = attrbench("report", tmp_path / "nowhere", "-o", tmp_path / "r.html")
    assert done.code == 1 and "no folder" in done.complaint[0]
    (tmp_path / "r.html").mkdir()
    done = attrbench("report", run("pixel"), "-o", tmp_path / "r.html")
    assert done.code == 1 and f"cannot write the report {tmp_path / 'r.html'}" in done.complaint[0]


def test_reports_are_listed_with_their_options(attrbench):
    listing = json.loads(attrbench("list", "reports", "--json").out)
    (html,) = (entry for entry in listing["reports"] if entry["name"] == "html")
    assert [option["name"] for option in html["options"]] == ["k", "queries"]
    assert all(option["meaning"] for option in html["options"])
