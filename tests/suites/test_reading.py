"""A suite with a fault is one line that names the file and the place."""

from __future__ import annotations

import json

import pytest

from attrbench.errors import UsageError
from attrbench.plugins.registry import registry
from attrbench.suites.plan import plan
from attrbench.suites.read import read_suite
from tests.suites.making import NUMBERS, write_suite

METRIC = 'layout = "metric"\nmetric = "detection-rate"\nk = [5]'
COLUMN = [{"name": "All", "paper": "all"}]


def complaint(path, scale="mini", options=()):
    with pytest.raises(UsageError) as error:
        plan(registry(), read_suite(str(path)), scale, options)
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('paper = "pixel"', 'papr = "pixel"', "unknown key rows.1.papr: did you mean paper?"),
        ('layout = "metric"', 'layout = "matrix"', "layout"),
        ('layout = "metric"\nmetric = "detection-rate"\nk = [5]', 'layout = "gallery"\nk = [5, 9]', "one k, not 2"),
        ("k = [5]", "", "a suite with layout 'metric' has to give k"),
        ('paper = "pixel"', 'paper = "pixels"', "no row 'pixels': did you mean pixel?"),
        ("k = [5]", "k = [7]", "no column 'all@7'"),
        ('table = "t"', 'table = "u"', "unknown table of the paper 'u'"),
        ('notes = ["chance"]', 'notes = ["luck"]', "there is no footnote 'luck'"),
        ('paper = "numbers.json"', 'paper = "none.json"', "cannot read the paper's numbers"),
        ('title = "A table"', "title = ", "is not valid TOML"),
        ('method = "pixel"', 'method = "pixle"', "unknown method 'pixle': did you mean pixel"),
        ('method = "pixel"', 'method = "dmin:v={w}"', "the task has no value {w}"),
        ('method = "pixel"', 'method = "dmin:v=1|2"', "no a|b"),
        ('"digits-mini"', '"digits-mni"', "unknown task"),
    ],
)
def test_a_fault_is_told_in_one_line(tmp_path, old, new, said):
    path = write_suite(tmp_path, METRIC, COLUMN)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert said in complaint(path)


def test_numbers_of_a_paper_with_a_fault_are_named_with_the_place(tmp_path):
    path = write_suite(tmp_path, METRIC, COLUMN, numbers={**NUMBERS, "tables": {"t": {"title": "x"}}})
    assert "numbers.json holds no paper's numbers: tables.t.place" in complaint(path)


def test_a_file_that_is_not_there_says_which_suites_ship(tmp_path):
    assert "suites that ship: figure3" in complaint(tmp_path / "none.toml")


def test_options_of_a_task_that_the_suite_does_not_have_are_refused(tmp_path):
    path = write_suite(tmp_path, METRIC, COLUMN)
    assert "unknown task of suite suite" in complaint(path, options=["ddpm-mnist:model=x"])
    (needed,) = plan(registry(), read_suite(str(path)), "mini", ["digits-mini:queries_per_group=2"])
    assert needed.request.label == "digits-mini:queries_per_group=2"


def test_a_scale_is_chosen_by_name_or_by_the_machine(tmp_path):
    suite = read_suite(str(write_suite(tmp_path, METRIC, COLUMN)))
    assert suite.scale(None, has_gpu=True) == suite.scale("mini", has_gpu=True) == "mini"
    shipped = read_suite("table2")
    assert [shipped.scale(None, has_gpu=gpu) for gpu in (True, False)] == ["paper", "mini"]
    with pytest.raises(UsageError, match="no scale 'large'; it has mini, paper"):
        shipped.scale("large", has_gpu=False)


def test_bytes_that_are_no_text_are_no_traceback(tmp_path):
    path = write_suite(tmp_path, METRIC, COLUMN)
    path.write_bytes(b"\xff\xfe\x00")
    assert "is not valid TOML" in complaint(path)
    path = write_suite(tmp_path, METRIC, COLUMN, numbers=json.loads("[1]"))
    assert "holds no paper's numbers" in complaint(path)
