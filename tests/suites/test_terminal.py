"""Tables on a terminal fit its width, and every word, number and interval stands in one piece."""

from __future__ import annotations

import csv
import io
import json

import pytest
from rich.cells import cell_len

from attrbench.suites.table import Cell, Column, Line, Part, SuiteTable, to_csv, to_json, to_markdown
from attrbench.suites.terminal import to_text

GROUPS = ("Flowers; ours: flag", "Lego Sets; ours: card", "Magic Cards; ours: glyph [1][2]")
NAMES = ("Random Selection", "DataInf (Hessian Inversion) [2][5]", "Ours (v = 2^16, KNN) [3]")


def cell(number):
    value = number / 1000
    return Cell(
        f"{value:.4f}",
        f"{value:.3f}",
        f"[{value - 0.1:.2f}, {value + 0.1:.2f}]",
        value,
        value,
        value - 0.1,
        value + 0.1,
    )


@pytest.fixture
def table():
    columns = [Column(f"Top {k}", group) for group in GROUPS for k in (5, 10, 50, 100)]
    lines = [
        Line(name, [cell(100 * row + place + 101) for place in range(len(columns))]) for row, name in enumerate(NAMES)
    ]
    about = ["Mini scale: small stand-ins on other data, of which the order alone can be compared with the paper."]
    return SuiteTable("Average detection rate", about, [Part("SD 1.4 (LoRA)", columns, lines)], ["[1] A note."])


@pytest.mark.parametrize("width", [80, 100, 120, None])
def test_every_value_is_there_whole_and_no_line_is_too_long(table, width):
    text = to_text(table, width)
    lines = text.splitlines()
    assert width is None or max(map(cell_len, lines)) <= width
    for part in table.parts:
        for line in part.lines:
            for one in line.cells:
                for value in (one.paper, one.ours, one.interval):
                    assert any(value in shown for shown in lines)
    for word in " ".join((*NAMES, *table.about)).split():
        assert word in text.split()
    for group in GROUPS:
        assert group in text
    assert text.count("Top 5") >= 3 and text.count("[1] A note.") == 1


def test_values_stand_under_the_title_of_their_column(table):
    lines = to_text(table, None).splitlines()
    titles = next(line for line in lines if "Top 5" in line)
    first = next(line for line in lines if line.startswith("Random Selection"))
    for title, value in (("Top 5 ", "0.1010"), ("Top 100", "0.1120")):
        place = titles.index(title) if title == "Top 5 " else titles.rindex(title)
        end = place + len(title.rstrip())
        assert (first.index(value) + len(value)) == end


def test_a_table_without_numbers_of_the_paper_does_not_name_the_kinds_of_values():
    plain = SuiteTable("t", [], [Part("", [Column("a")], [Line("row", [Cell("", "7")])])], [])
    assert "ours" not in to_text(plain, 80) and "row  7" in to_text(plain, 80)


@pytest.mark.parametrize("width", [60, 80, None])
def test_a_long_name_of_a_group_makes_its_columns_no_wider_than_it_needs(width):
    columns = [Column(str(value), "ef_construction") for value in (50, 100, 200, 300, 400, 500)]
    part = Part("ef = 200", columns, [Line("M = 4", [cell(500)] * 6)])
    lines = to_text(SuiteTable("t", [], [part], []), width).splitlines()
    heads = sum("ef_construction" in line for line in lines)
    assert heads == {60: 2, 80: 2, None: 1}[width]
    assert max(map(len, lines)) <= (width or 100)


def test_escapes_in_texts_of_others_do_not_reach_the_terminal():
    hostile = SuiteTable("t\x1b[31m", [], [Part("\x1b]0;x", [Column("a")], [Line("r\x07", [Cell("", "7\x1b")])])], [])
    assert all(character.isprintable() for line in to_text(hostile, 80).split("\n") for character in line)


def test_csv_and_json_have_each_cell_with_its_numbers(table):
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    cells = json.loads(to_json(table))["cells"]
    assert len(rows) == len(cells) == 36
    assert cells[0] == {
        "part": "SD 1.4 (LoRA)",
        "row": "Random Selection",
        "column": "Flowers; ours: flag, Top 5",
        "paper": 0.101,
        "ours": 0.101,
        "low": pytest.approx(0.001),
        "high": pytest.approx(0.201),
    }
    assert rows[0]["paper"] == "0.101"


def test_markdown_has_paper_and_ours_in_a_cell_and_escapes_text_of_others():
    hostile = SuiteTable("<b>t</b>", [], [Part("", [Column("a|b")], [Line("`x`", [cell(500)])])], ["=1|2"])
    text = to_markdown(hostile)
    assert "| 0.5000 / 0.500 [0.40, 0.60] |" in text
    assert "<b>" not in text and "a\\|b" in text and "\\`x\\`" in text
    assert to_csv(SuiteTable("t", [], [Part("=1", [Column("a")], [Line("r", [cell(1)])])], [])).count("'=1") == 1
