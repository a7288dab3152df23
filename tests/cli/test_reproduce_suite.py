"""A suite runs what has no record, prints or writes its table, and says what is missing."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from attrbench.contracts.record import read_records, write_record
from tests.suites.making import BASE, write_suite

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "reproduce-the-paper.md"
GALLERY = 'layout = "gallery"\nqueries = 2\nk = [3]\nleast = 2'
GALLERY_BASE = BASE.replace('paper = "pixel"\n', "").replace('paper = "random"\n', "")


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    """The suite of the documentation, with the numbers beside it."""
    folder = tmp_path_factory.mktemp("suite")
    text = PAGE.read_text(encoding="utf-8")
    for name, language in (("numbers.json", "json"), ("digits.toml", "toml")):
        (block,) = re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        (folder / name).write_text(block)
    return folder / "digits.toml"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Records that the tests share."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def reproduce(attrbench, example, results, cache):
    def run(*arguments, suite=example):
        return attrbench("reproduce", suite, "--device", "cpu", "--out", results, "--cache", cache, *arguments)

    return run


def test_the_suite_of_the_documentation_runs_and_stands_beside_the_papers_numbers(reproduce, results, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = reproduce()
    assert done.code == 0, done.err
    records = {record.method.name: record for record in read_records(results)[0]}
    assert set(records) == {"pixel", "dmin", "random"}
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80 and lines[0].startswith("How often the first images are of the same digit")
    assert "Digits of 8x8 pixels: compare the order, not the size." in lines
    assert any(re.fullmatch(r"Pixels +paper +0\.9500 +0\.9400", line) for line in lines)
    pixel = [records["pixel"].metric(f"detection-rate@{k}") for k in (5, 10)]
    assert any(re.fullmatch(rf" +ours +{pixel[0].value:.3f} +{pixel[1].value:.3f}", line) for line in lines)
    assert f"[{pixel[0].low:.2f}, {pixel[0].high:.2f}]" in done.out
    assert any(re.match(r"Chance +ours", line) for line in lines)
    assert "[1] The paper does not say which v it used." in lines
    assert "1,500 training items, 100 queries (10 a group)" in " ".join(done.out.split())


def test_what_has_a_record_is_not_run_again(reproduce, results):
    reproduce()
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}
    assert reproduce().code == 0
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*.json")} == before


def test_records_of_a_folder_are_taken_and_nothing_is_run(reproduce, results, tmp_path, monkeypatch):
    reproduce()
    monkeypatch.setattr("attrbench.api.run", lambda *a, **k: pytest.fail("something was run"))
    with_all = reproduce("--records", results, "--format", "csv")
    assert with_all.code == 0
    rows = list(csv.DictReader(io.StringIO(with_all.out)))
    assert [(row["row"], row["column"], row["paper"]) for row in rows[:2]] == [
        ("Pixels", "Digits, Top 5", "0.95"),
        ("Pixels", "Digits, Top 10", "0.94"),
    ]
    (pixel,) = (path for path in results.rglob("pixel-*.json"))
    partly = reproduce("--records", pixel, "--format", "json")
    assert partly.code == 3
    document = json.loads(partly.out)
    assert any("no record of dmin:v=512, random on digits-mini" in note for note in document["notes"])
    assert document["scale"] == "mini" and len(document["records"]) == 1
    assert reproduce("--records", tmp_path).complaint == [
        f"attrbench: error: {tmp_path}: no record of this suite's methods on its tasks; without --records they are run"
    ]


def test_a_dry_run_shows_the_plan_and_writes_nothing(attrbench, example, tmp_path, cache):
    out = tmp_path / "out"
    done = attrbench("reproduce", example, "--dry-run", "--device", "cpu", "--out", out, "--cache", cache)
    assert done.code == 0 and not list(out.rglob("*.json"))
    assert "DDPM on digits: digits-mini, 3 methods" in done.out and "-m dmin:v=512" in done.out
    paper = attrbench("reproduce", "table5", "--scale", "paper", "--dry-run", "--device", "cpu", "--cache", cache)
    assert paper.code == 0 and "needs a GPU" in paper.out and "not here: ddpm-mnist: " in paper.out


@pytest.mark.parametrize("ending", ["md", "csv", "json", "txt", "html"])
def test_a_table_is_written_by_the_ending_of_its_file(reproduce, tmp_path, ending):
    path = tmp_path / f"table.{ending}"
    done = reproduce("-o", path)
    assert done.code == 0 and done.out == f"{path}\n"
    text = path.read_text()
    assert "Pixels" in text and "0.95" in text
    assert ending != "html" or (text.startswith("<!DOCTYPE html>") and "paper 0.9500" in text)


def test_a_gallery_shows_the_first_and_last_items_of_queries(reproduce, tmp_path):
    suite = write_suite(tmp_path, GALLERY, [], task="digits", base=GALLERY_BASE)
    done = reproduce(suite=suite)
    assert done.code == 0, done.err
    assert re.search(r"query \d+, 0 ", done.out) and re.search(r"query \d+, 1 ", done.out)
    assert "least" in done.out and "most" in done.out
    assert reproduce("-o", tmp_path / "sheet.png", suite=suite).code == 0
    pages = sorted(tmp_path.glob("sheet-*.png"))
    assert len(pages) == 2 and Image.open(pages[0]).size[0] > 300
    assert reproduce("-o", tmp_path / "page.html", suite=suite).code == 0
    assert (tmp_path / "page.html").read_text().count('class="gallery"') == 2


def test_a_gallery_shows_no_record_of_other_data(reproduce, results, tmp_path):
    reproduce()
    (pixel,) = (each for each in read_records(results)[0] if each.method.name == "pixel")
    other = pixel.model_copy(update={"task": pixel.task.model_copy(update={"fingerprint": "0" * 64})})
    written = write_record(other, tmp_path / "records")
    suite = write_suite(tmp_path, GALLERY, [], task="digits", base=GALLERY_BASE)
    done = reproduce("--records", written, "-o", tmp_path / "sheet.png", suite=suite)
    assert done.code == 1 and "its record is of other data than the task has here" in done.complaint[0]


def test_a_method_that_can_not_run_leaves_its_row_empty(reproduce, tmp_path, monkeypatch):
    from attrbench.errors import Unavailable
    from attrbench_methods.similarity.pixel import Pixel

    def refuse(self, items):
        raise Unavailable("its weights are not here")

    monkeypatch.setattr(Pixel, "check", refuse)
    suite = write_suite(
        tmp_path, 'layout = "metric"\nmetric = "detection-rate"\nk = [5]', [{"name": "All", "paper": "all"}]
    )
    done = reproduce("--format", "csv", suite=suite)
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(done.out))}
    assert done.code == 3 and rows["Pixels"]["ours"] == "" and rows["Pixels"]["paper"] == "0.9"
    assert float(rows["Random [1]"]["ours"]) > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("table2", "--scale", "large"), "suite table2 has no scale 'large'"),
        (("table9",), "unknown suite 'table9': did you mean"),
        (("none.toml",), "there is no suite file none.toml"),
        (("pixel", "--scale", "mini"), "--scale is for suites, and 'pixel' is none"),
        (("table7", "--scale", "mini", "-o", "t.docx"), "suite table7 is written to files ending in .md"),
        (("table7", "--scale", "mini", "-o", "t.md", "--format", "csv"), "--format is for standard output"),
        (("table7", "--scale", "mini", "-t", "nothing:v=1"), "unknown task of suite table7"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(attrbench, arguments, said):
    done = attrbench("reproduce", *arguments)
    assert done.code == 2 and len(done.complaint) == 1 and said in done.complaint[0]


def test_the_settings_of_the_paper_are_those_of_its_tasks(attrbench):
    cells = json.loads(attrbench("reproduce", "table7", "--scale", "paper", "--format", "json").out)["cells"]
    told = [(cell["row"], cell["column"], cell["paper"], cell["ours"]) for cell in cells if cell["paper"] is not None]
    assert len(told) == 3 * 5 + 2 * 3
    assert all(paper == ours for _, _, paper, ours in told), told


def test_suites_are_listed(attrbench):
    out = attrbench("list", "suites").out
    assert out.index("table2") < out.index("table8") and "figure5" in out
