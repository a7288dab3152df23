"""No record takes the leaderboard down, ranks by what is no number, or writes more than text into a table."""

import csv
import io
import json
import os
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from attrbench.contracts.record import read_records, write_record
from attrbench.reports.leaderboard import rank_records
from attrbench.reports.leaderboard_table import markdown_text, to_csv, to_json, to_markdown
from attrbench.reports.ranking import build_tables
from attrbench.reports.terminal_board import SHOWN, to_rich
from tests.reports.test_leaderboard import noisy, record


def document(label="b"):
    return json.loads(record(label, noisy(0.6)).model_dump_json())


def changed(**parts):
    return json.dumps(document() | parts)


def with_metric(**parts):
    whole = document()
    whole["metrics"][0] |= parts
    return json.dumps(whole)


DAMAGED = {
    "nested lists": "[" * 200_000,
    "a nested record": '{"schema_version": 1, "task": ' + '{"a":' * 100_000,
    "a nested option": changed(facts={}).replace('"facts": {}', '"facts": ' + '{"a":' * 500 + "1" + "}" * 500),
    "no storage": changed(storage=None),
    "no latency": changed(latency=None),
    "a list": changed(task=[]),
    "null": changed(method=None),
    "a huge count": changed(storage={"rows": 10**400, "rows_on_disk": 0, "shared": 0, "index": 0}),
    "a negative count": changed(storage={"rows": -1, "rows_on_disk": 0, "shared": 0, "index": 0}),
    "unequal clusters": with_metric(clusters=7),
    "no clusters": with_metric(clusters=0),
    "a text as value": with_metric(value="good"),
    "half": changed()[:500],
    "a lone surrogate": changed(command="?").replace('"?"', '"\\ud800"'),
    "a text as schema": changed(schema_version="\u001b[2J"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_record_is_named_in_one_line_and_the_others_are_ranked(tmp_path, kind):
    write_record(record("a", noisy(0.5)), tmp_path)
    (tmp_path / "bad.json").write_text(DAMAGED[kind])
    records, problems = read_records(tmp_path)
    (row,) = rank_records(records).tables[0].ranked
    assert row.record.method.label == "a"
    (problem,) = problems
    assert "bad.json" in problem and problem.isprintable() and len(problem) < 600


def test_a_folder_and_a_pipe_in_the_place_of_a_record_are_named(tmp_path):
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    records, problems = read_records(tmp_path)
    assert not records
    assert [problem.split(": ")[1] for problem in problems] == ["cannot be read"] * 2


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["value", "per_query", "low", "p50"])
def test_what_is_no_number_is_never_ranked_and_is_said(number, place):
    bad = record("bad", noisy(0.9))
    result = bad.metrics[0]
    if place == "p50":
        query = bad.latency.query.model_copy(update={"p50": number})
        bad = bad.model_copy(update={"latency": bad.latency.model_copy(update={"query": query})})
    else:
        value = [number, *result.per_query[1:]] if place == "per_query" else number
        bad = bad.model_copy(update={"metrics": [result.model_copy(update={place: value})]})
    (table,) = build_tables([bad, record("a", noisy(0.3)), record("b", noisy(0.6))])
    assert [(row.record.method.label, row.rank) for row in table.ranked] == [("b", 1), ("a", 2)]
    (row,) = table.below
    assert "NaN or infinite" in row.reason
    (shown,) = [row for row in json.loads(to_json([table]), parse_constant=pytest.fail)[0]["rows"] if row["reason"]]
    assert shown["method"] == "bad" and shown["rank"] is None
    (line,) = [line for line in to_markdown([table]).splitlines() if line.startswith("| – | bad")]
    assert "nan" not in line.lower().replace("that are nan", "") and "| inf" not in line
    assert "nan" not in to_csv([table]).lower().replace("that are nan", "")


def test_ceilings_and_controls_that_are_no_numbers_are_left_out():
    bad = record("a", noisy(0.5))
    bad = bad.model_copy(update={"metrics": [bad.metrics[0].model_copy(update={"ceiling": np.nan, "random": np.inf})]})
    (found,) = json.loads(to_json(build_tables([bad])), parse_constant=pytest.fail)
    assert found["ceiling"] is None and found["random"] is None


HOSTILE = (
    "\x1b[2J[red]x[/red] :smile: <img src=x> `c` **b** [l](http://e.com) https://e.com www.e.com a@e.com | \u202e\r\n"
)


def hostile_table():
    bad = record("a", noisy(0.5))
    hardware = bad.hardware.model_copy(update={"hardware_class": HOSTILE})
    task, method = (part.model_copy(update={"label": HOSTILE}) for part in (bad.task, bad.method))
    failed = bad.model_copy(update={"status": "failed", "error": HOSTILE, "identity": "2", "seed": 1})
    update = {"hardware": hardware, "task": task, "method": method}
    return build_tables([each.model_copy(update=update) for each in (bad, failed)])[0]


def test_a_terminal_gets_text_only():
    console = Console(width=400, file=io.StringIO(), force_terminal=False)
    console.print(to_rich(hostile_table()))
    text = console.file.getvalue()
    assert all(character.isprintable() or character == "\n" for character in text)
    assert text.count("?[2J[red]x[/red] :smile: <img src=x>") == 5  # title, two labels, error, caption


def test_markdown_gets_no_link_no_html_and_no_cell_from_a_text():
    markdown = to_markdown([hostile_table()])
    assert all(character.isprintable() or character == "\n" for character in markdown)
    lines = markdown.splitlines()
    rows = [line for line in lines if line.startswith(("| 1", "| –"))]
    columns = lines[2].replace("\\|", "").count("|")
    assert [line.replace("\\|", "").count("|") for line in rows] == [columns, columns]
    for live in ("<img", "https://", "http://", "www.", "a@e", " `c`", " **b**"):
        assert live not in markdown
    assert not re.search(r"(?<!\\)\]\(", markdown)
    assert "[red\\]" not in markdown and "[red]x" in markdown  # what is harmless stays as it is


def test_markdown_of_published_labels_is_left_as_it_is():
    labels = ["dmin:search=faiss,index=RaBitQ,rerank=5", "a_b:noise=shared,damping=0.01", "x-1.5 (tuned)"]
    markdown = to_markdown(build_tables([record(label, noisy(0.5, seed)) for seed, label in enumerate(labels)]))
    assert all(f"| {label} |" in markdown for label in labels)
    assert "| d@1 ↑ |" in markdown


@pytest.mark.parametrize("start", ["=cmd()", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", " =1", "＝1"])
def test_no_text_is_a_formula_in_csv_and_numbers_stay_numbers(start):
    bad = record("a", noisy(0.5))
    result = bad.metrics[0]
    negative = [-value for value in result.per_query]
    update = {"per_query": negative, "value": -result.value, "low": -result.high, "high": -result.low}
    method = bad.method.model_copy(update={"label": start})
    bad = bad.model_copy(update={"method": method, "metrics": [result.model_copy(update=update)]})
    (row,) = csv.DictReader(io.StringIO(to_csv(build_tables([bad]))))
    assert row["method"] == f"'{start.strip()}"
    assert float(row["value"]) == -result.value


def test_a_long_text_is_cut_and_a_long_table_says_how_many_it_hides():
    runs = [record(f"m{place}", noisy(0.5, place)) for place in range(SHOWN + 3)]
    (table,) = build_tables([*runs, record("x" * 5000, noisy(0.5), status="failed")])
    console = Console(width=200, file=io.StringIO())
    console.print(to_rich(table))
    assert "3 more runs are not shown here" in console.file.getvalue()
    assert "x" * 399 + "…" in to_markdown([table]) and "x" * 400 not in to_markdown([table])
    assert len(json.loads(to_json([table]))[0]["rows"]) == SHOWN + 4


@given(st.text(alphabet="&<\\|`*~_]([:@.-/ ahtpswwwf1", max_size=30))
def test_a_text_is_escaped_alike_whether_or_not_another_sign_stands_behind_it(text):
    assert markdown_text(f"{text} &") == f"{markdown_text(text)} &amp;"
