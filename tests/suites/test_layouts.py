"""Tables that are laid out of made-up records have the paper's numbers, ours and intervals in their places."""

from __future__ import annotations

import numpy as np
import pytest

from attrbench.metrics.intervals import mean_interval
from attrbench.suites.cells import binary_bytes, plain_text
from attrbench.suites.layouts import cost_parts, grid_parts, metric_parts
from tests.suites.making import BASE, NUMBERS, latency, made_record, storage, world_of, write_suite

VALUES = [0.2, 0.4, 0.6, 0.8, 1.0, 0.0]
GROUPS = ["a", "a", "a", "b", "b", "b"]
METRIC = 'layout = "metric"\nmetric = "detection-rate"\nk = [5]'


def metric_world(tmp_path, records, **column):
    path = write_suite(tmp_path, METRIC, [{"name": "All", "paper": "all", **column}])
    return world_of(path, records)


def test_a_cell_has_the_papers_number_ours_and_our_interval(tmp_path):
    world = metric_world(tmp_path, {"pixel": made_record("pixel", VALUES)})
    (part,) = metric_parts(world)
    cell = part.lines[0].cells[0]
    assert (cell.paper, cell.ours, cell.published) == ("0.9000", "0.500", 0.9)
    assert cell.value == pytest.approx(0.5)
    assert cell.interval == f"[{cell.low:.2f}, {cell.high:.2f}]"


def test_a_group_counts_its_own_queries_alone_with_an_interval_over_them(tmp_path):
    numbers = {**NUMBERS}
    made = made_record("pixel", VALUES, GROUPS, seed=3)
    path = write_suite(tmp_path, METRIC, [{"name": "One", "paper": "one", "group": "b"}], numbers=numbers)
    (part,) = metric_parts(world_of(path, {"pixel": made}))
    cell = part.lines[0].cells[0]
    assert cell.value == pytest.approx(np.mean(VALUES[3:]))
    assert (cell.low, cell.high) == pytest.approx(mean_interval(VALUES[3:], 3))
    assert cell.paper == ""
    assert "ours: b" in part.columns[0].text


@pytest.mark.parametrize("made", [None, "other group", "no metric"])
def test_where_there_is_no_value_of_ours_the_papers_stands_alone(tmp_path, made):
    records = {
        None: {},
        "other group": {"pixel": made_record("pixel", VALUES, GROUPS)},
        "no metric": {"pixel": made_record("pixel", VALUES).model_copy(update={"metrics": []})},
    }[made]
    world = metric_world(tmp_path, records, group="c")
    cell = metric_parts(world)[0].lines[0].cells[0]
    assert (cell.paper, cell.ours, cell.value) == ("0.9000", "", None)


def test_names_bear_the_marks_of_their_footnotes(tmp_path):
    (part,) = metric_parts(metric_world(tmp_path, {}))
    assert [line.name for line in part.lines] == ["Pixels", "Random [1]"]


def test_storage_is_told_for_an_item_for_all_and_as_share_of_what_is_not_kept(tmp_path):
    papers = {"item": "item", "total": "", "share": ""}
    columns = [{"name": name, "paper": paper, "value": name} for name, paper in papers.items()]
    path = write_suite(tmp_path, 'layout = "storage"\nbaseline = "random"', columns, task="d")
    records = {
        "pixel": made_record("pixel", VALUES, storage=storage(rows=4096 * 10)),
        "random": made_record("random", VALUES, storage=storage(kept=4096 * 1000)),
    }
    items = records["pixel"].coverage.train_items
    pixel, base = cost_parts(world_of(path, records))[0].lines
    assert [cell.ours for cell in pixel.cells] == [binary_bytes(40960 / items), "40 KiB", "1%"]
    assert [cell.ours for cell in base.cells[1:]] == ["3.906 MiB", "100%"]
    assert pixel.cells[0].paper == "20 GB"


def test_times_are_of_the_clock_that_a_row_names_and_speed_ups_refer_to_the_baseline(tmp_path):
    columns = [{"name": name, "paper": name, "value": name} for name in ("seconds", "speedup")]
    base = BASE.replace('method = "random"', 'method = "random"\nclock = "query"')
    path = write_suite(tmp_path, 'layout = "time"\nbaseline = "random"', columns, task="d", base=base)
    records = {
        "pixel": made_record("pixel", VALUES, latency=latency(0.01, 5.0)),
        "random": made_record("random", VALUES, latency=latency(0.5, 2.0)),
    }
    pixel, random = cost_parts(world_of(path, records))[0].lines
    assert [(cell.paper, cell.ours, cell.interval) for cell in pixel.cells] == [
        ("12.500 s", "10 ms", "20 ms"),
        ("", "200x", ""),
    ]
    assert [cell.ours for cell in random.cells] == ["2 s", "1.00x"]


def test_a_grid_has_a_part_for_each_value_and_group_and_the_cell_of_its_own_method(tmp_path):
    top = 'layout = "grid"\nmetric = "detection-rate"\nk = [5]\n[grid]\n'
    top += 'method = "dmin:v={v},search=hnsw,M={row},ef_construction={column},ef={part}"\npart_name = "ef"\n'
    top += 'row_name = "M"\ncolumn_name = "ef_construction"\nparts = [100, 200]\nrows = [4, 8]\ncolumns = [50, 60]'
    table = {
        "title": "",
        "place": "",
        "version": "",
        "columns": {"50": "", "60": ""},
        "rows": {f"{e}/all/{m}": {"row": "", "cells": {"60": e + m}} for e in (100, 200) for m in (4, 8)},
    }
    lines = BASE.strip().splitlines()
    head, rest = "\n".join(lines[:3]), "\n".join(lines[3:])
    numbers = {**NUMBERS, "tables": {"t": table}}
    path = write_suite(tmp_path, head + "\n" + top, [{"name": "All", "paper": "all"}], numbers=numbers, base=rest)
    method = "dmin:v=64,search=hnsw,M=8,ef_construction=60,ef=200"
    world = world_of(path, {method: made_record("dmin", VALUES)})
    parts = grid_parts(world)
    assert [part.title for part in parts] == ["ef = 100, All", "ef = 200, All"]
    found = [cell for part in parts for line in part.lines for cell in line.cells if cell.ours]
    assert len(found) == 1 and parts[1].lines[1].cells[1] is found[0]
    assert found[0].published == 208
    assert len(world.needed[0].methods) == 8 + 2


def test_numbers_are_shown_in_short():
    assert [plain_text(value) for value in (0.0001, 1541, ["a", "b"], None, True)] == [
        "0.0001",
        "1,541",
        "a, b",
        "",
        "true",
    ]
    assert [binary_bytes(count) for count in (12, 4 * 4096 * 10, 2**30)] == ["12 B", "160 KiB", "1 GiB"]
