"""Every table and figure of the DMin paper that is promised has a suite, and every number of the paper a place."""

from __future__ import annotations

import pytest

from attrbench.plugins.registry import registry
from attrbench.suites.names import is_suite, shipped_suites, titles
from attrbench.suites.plan import plan
from attrbench.suites.read import looked_up, read_suite

TABLES = tuple(f"table{number}" for number in range(1, 9))
FIGURES = ("figure3", "figure5", "figure6", "figure7")


def test_the_suites_that_ship_are_those_that_are_promised():
    assert set(shipped_suites()) == {*TABLES, *FIGURES}
    assert all(titles().values()) and not any(title.startswith("error") for title in titles().values())


@pytest.mark.parametrize("name", TABLES + FIGURES)
def test_a_suite_can_be_read_and_planned_at_both_scales(name):
    suite = read_suite(name)
    assert suite.file.table == name and set(suite.file.scales) == {"mini", "paper"}
    for scale in ("mini", "paper"):
        needed = plan(registry(), suite, scale)
        assert len(needed) == len(suite.file.tasks)
        assert {each.request.spec.name.endswith("-mini") for each in needed} == {scale == "mini"}
    assert suite.file.scales["paper"].needs
    assert "Mini scale" in suite.file.scales["mini"].about


@pytest.mark.parametrize("name", TABLES)
def test_every_number_of_a_table_of_the_paper_stands_in_its_suite(name):
    suite = read_suite(name)
    asked = set(looked_up(suite.file))
    printed = {(row, column) for row, cells in suite.table.rows.items() for column in cells.cells}
    assert printed and printed <= asked


def test_faults_of_the_paper_are_footnotes():
    text = {name: " ".join(map(str, read_suite(name).file.footnotes.values())) for name in TABLES}
    assert "can only miss items" in text["table2"] and "can only miss items" in text["table8"]
    assert "unequal numbers of queries" in text["table2"] and "equal in all 24 cells" in text["table2"]
    assert "slip of the unit" in text["table3"]


def test_the_numbers_are_those_of_the_paper():
    def value(name, row, column):
        return read_suite(name).table.value(row, column)

    assert value("table2", "sd3-lora/dmin-2^16-knn", "lego-sets@10") == 0.9
    assert value("table2", "sd14-lora/ssim", "magic-cards@100") == 0.429
    assert value("table3", "2^12", "sd3-full/total") == "726 MB"
    assert value("table4", "lissa", "sd14-lora/seconds") == 2939.283
    assert value("table6", "200/flowers/4", "100") == 0.9046
    assert value("table1", "magic-cards", "train") == 1541


@pytest.mark.parametrize(
    ("name", "is_one"), [("table2", True), ("mine.toml", True), ("dmin", False), ("1a2b3c4d", False)]
)
def test_a_name_means_a_suite_or_a_record(name, is_one):
    assert is_suite(name) is is_one
