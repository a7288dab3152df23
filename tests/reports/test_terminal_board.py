"""Boards on terminals: what fits is shown whole, what does not is left out and named.

`ATTRBENCH_WRITE_DOCS=1 pytest tests/reports/test_terminal_board.py` writes the boards in `boards` again.
"""

import csv
import io
import os
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from attrbench.contracts.record import read_records
from attrbench.contracts.record_costs import Hardware
from attrbench.errors import UsageError
from attrbench.reports.html.board import make_board
from attrbench.reports.leaderboard import Leaderboard, rank_records
from attrbench.reports.ranking import build_tables
from attrbench.reports.table_cells import shown
from attrbench.reports.terminal_board import NARROWED
from tests.reports.test_leaderboard import noisy, record

PUBLISHED = Path(__file__).parents[2] / "leaderboards"
BOARDS = Path(__file__).parent / "boards"
INTERVAL = re.compile(r"\[-?\d\.\d{3}, -?\d\.\d{3}\]")


@pytest.fixture(scope="module")
def published():
    return read_records(PUBLISHED)[0]


def printed(board, width=None, columns=(), sort="rank"):
    console = Console(width=width or 1000, file=io.StringIO(), soft_wrap=True)
    console.print(board.to_rich(width, columns, sort), end="")
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_published_board_of_a_width_is_the_one_that_stands_here(published, width):
    text = printed(rank_records(published, ["ddpm-icons-mini", "mnist-removal-mini"]), width)
    path = BOARDS / f"{width}.txt"
    if os.environ.get("ATTRBENCH_WRITE_DOCS") == "1":
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_line_is_too_long_and_no_label_number_or_interval_is_broken(published, width):
    board = rank_records(published)
    text = printed(board, width)
    assert max(map(cell_len, text.splitlines())) <= width
    lines = text.splitlines()
    for table in board.tables:
        for row in table.ranked:
            label = shown(row.record.method.label)
            found = re.search(rf"\d=?  {re.escape(label)}( †)?  ", text)
            if width == 80 and cell_len(label) > NARROWED:
                options = [re.escape(part) for part in re.findall("[^,:]+[,:]?", label)]
                broken = r"(?:[^\n]*\n +)?".join(options)
                found = re.search(rf"\d=?  {broken}( †)?(  |\n)", text)
            assert found, label
    for table in board.tables:
        alone = printed(Leaderboard([table]), width)
        metrics = [name for name in {table.metric, *table.criteria} if f"{name} ↑" in alone]
        assert table.metric in metrics or not table.ranked
        results = [row.record.metric(name) for row in [*table.ranked, *table.below] for name in metrics]
        with_interval = sum(result is not None and result.low is not None for result in results)
        assert len(INTERVAL.findall(alone)) == with_interval + len(table.controls)
    assert not any(line.count("[") != line.count("]") for line in lines)


@pytest.mark.parametrize("width", range(34, 80, 5))
def test_narrow_terminals_get_labels_of_several_lines_broken_between_options(published, width):
    text = printed(rank_records(published, ["ddpm-mnist-mini"]), width)
    assert max(map(cell_len, text.splitlines())) <= width
    words = {word for line in text.splitlines() for word in re.split(r"[ ,:]+", line)}
    for label in ("dmin:search=faiss,index=RaBitQ,rerank=5", "datainf:noise=shared,damping=0.0001"):
        assert set(re.split("[,:]", label)) <= words


def test_other_criteria_have_room_on_80_columns_without_their_intervals_and_with_them_where_they_fit(published):
    board = rank_records(published, ["digits-mini"])
    lines = printed(board, 80).splitlines()
    assert re.split(r"\s{2,}", lines[1].strip()) == ["group-", "detection-"]
    assert re.split(r"\s{2,}", lines[2].strip()) == ["#", "method", "lds ↑", "top1 ↑", "rate@10 ↑"]
    for row in board.tables[0].ranked:
        values = [f"{row.record.metric(name).value:.3f}" for name in ("group-top1", "detection-rate@10")]
        assert any(line.split()[-2:] == values for line in lines), row.record.method.label
    wide = printed(board, 160)
    assert "group-top1 ↑  " in wide and len(INTERVAL.findall(wide)) == 3 * len(board.tables[0].ranked)


def test_columns_that_were_asked_for_lose_their_intervals_before_any_of_them_is_left_out(published):
    board = rank_records(published, ["digits-mini"])
    asked = ("rank", "method", "score", "group-top1", "detection-rate@10")
    text = printed(board, 80, asked)
    assert "No room" not in text and "detection-" in text and "top1" in text and "Times and Pareto" not in text


def test_a_pipe_gets_every_column_however_wide(published):
    board = rank_records(published, ["ddpm-mnist-mini"])
    text = printed(board)
    for title in ("storage", "if kept", "index", "query p50", "query p95", "amortized", "ANN recall", "Pareto"):
        assert f" {title}" in text.splitlines()[1]
    assert "No room" not in text and "No room for" in printed(board, 80)


def test_columns_without_a_value_are_left_out_and_named_nowhere():
    (table,) = build_tables([record("a", noisy(0.5)), record("b", noisy(0.2))])
    text = printed(Leaderboard([table]))
    assert "ANN recall" not in text and "if kept" not in text and "query p50" in text
    assert "ANN recall" not in Leaderboard([table]).to_markdown()


def test_a_metric_can_be_a_column_and_every_metric_can(published):
    board = rank_records(published, ["ddpm-mnist-mini"])
    text = printed(board, columns=["rank,method", "recall@50"])
    assert "recall@50 ↑" in text.splitlines()[1] and "detection" not in text.splitlines()[1]
    titles = printed(board, columns=["method", "metrics"]).splitlines()[1]
    assert all(f"{metric}@{k} ↑" in titles for metric in ("recall", "ann-recall") for k in (5, 10, 50, 100))
    with pytest.raises(UsageError, match="unknown column 'recal': did you mean"):
        printed(board, columns=["recal"])


def test_rows_can_be_sorted_and_keep_their_ranks(published):
    board = rank_records(published, ["ddpm-mnist-mini"])
    lines = printed(board, 80, sort="query-p50").splitlines()[3:]
    by_rank = {line.split()[1]: line.split()[0] for line in printed(board, 80).splitlines()[3:] if line.split()}
    by_time = [line.split()[:2] for line in lines[:2]]
    assert by_time == [[by_rank["random"], "random"], [by_rank["pixel"], "pixel"]] and by_rank["pixel"] == "1="
    best = printed(board, columns=["method"], sort="average-precision").splitlines()[3].strip()
    values = {row.record.method.label: row.record.metric("average-precision") for row in board.tables[0].ranked}
    assert best == max((name for name, value in values.items() if value), key=lambda name: values[name].value)
    with pytest.raises(UsageError, match="no order"):
        printed(board, sort="pareto")


def test_methods_can_be_chosen_and_keep_the_ranks_and_marks_that_they_have_among_all(published):
    everything = rank_records(published, ["ddpm-mnist-mini"])
    board = rank_records(published, ["ddpm-mnist-mini"], methods=["random", "dmin:v=4096"])
    marks = {row.record.method.label: (row.rank, row.tied, row.pareto) for row in everything.tables[0].ranked}
    chosen = {row.record.method.label: (row.rank, row.tied, row.pareto) for row in board.tables[0].ranked}
    assert chosen == {label: marks[label] for label in ("dmin:v=4096", "random")} and marks["random"][1]
    assert "2 of 60 runs are shown" in printed(board)
    with pytest.raises(UsageError, match="unknown method among the records"):
        rank_records(published, methods=["dmon"])


def test_ranks_count_the_rows_above_as_people_do(published):
    boards = build_tables(published)
    shared = 0
    for table in boards:
        ranks = [row.rank for row in table.ranked]
        assert ranks == [1 + sum(other < rank for other in ranks) for rank in ranks]
        assert [row.tied for row in table.ranked] == [ranks.count(rank) > 1 for rank in ranks]
        shared += sum(row.tied for row in table.ranked)
    assert shared > 50


def on(label, threads, load=None, device="cpu"):
    hardware = Hardware(
        hardware_class="cpu, 4 cores, X" if device == "cpu" else "H",
        device=device,
        processor="X",
        cores=4,
        threads=threads,
        memory_bytes=1,
        load=load,
    )
    return record(label, noisy(0.5)).model_copy(update={"hardware": hardware})


def test_runs_of_several_machines_share_a_board_that_names_each_ones_class_of_hardware():
    runs = [on("a", 4), on("b", 1), on("c", 2, device="cuda:0"), on("d", 4)]
    (table,) = build_tables(runs)
    assert table.machines == ["cpu, 4 cores, X", "H", "cpu, 4 cores, X, 1 thread"]
    assert {row.record.method.label: row.machine for row in table.ranked} == {"a": "a", "b": "c", "c": "b", "d": "a"}
    for text in (printed(Leaderboard([table])), Leaderboard([table]).to_markdown()):
        assert "a: cpu, 4 cores, X; b: H; c: cpu, 4 cores, X, 1 thread" in text
    rows = list(csv.DictReader(io.StringIO(Leaderboard([table]).to_csv())))
    assert {row["method"]: row["hardware"] for row in rows}["b"] == "cpu, 4 cores, X, 1 thread"
    (one,) = rank_records(runs, hardware=["1 thread"]).tables
    assert [row.record.method.label for row in one.ranked] == ["b"] and one.ranked[0].machine == ""
    with pytest.raises(UsageError, match="unknown hardware"):
        rank_records(runs, hardware=["tpu"])


def test_a_run_is_not_kept_off_the_pareto_front_by_one_on_another_machine():
    values = noisy(0.5)
    fast = record("fast", values, seconds=0.1).model_copy(update={"hardware": on("x", 2, device="cuda:0").hardware})
    slow = record("slow", values, seconds=1.0).model_copy(update={"hardware": on("x", 4).hardware})
    assert [row.pareto for row in build_tables([fast, slow])[0].ranked] == [True, True]
    same = slow.model_copy(update={"hardware": fast.hardware})
    assert {row.record.method.label: row.pareto for row in build_tables([fast, same])[0].ranked} == {
        "fast": True,
        "slow": False,
    }


def with_truth(label, truth, looks):
    """Return a record with a ground truth's metric beside the task's main metric."""
    run = record(label, noisy(looks))
    found = run.metrics[0].model_copy(update={"metric": "lds", "k": None, "value": truth, "criterion": True})
    return run.model_copy(update={"metrics": [*run.metrics, found]})


def test_a_ground_truth_ranks_the_board_where_at_least_half_of_the_runs_have_it():
    runs = [with_truth("a", 0.1, 0.9), with_truth("b", 0.4, 0.2)]
    (table,) = build_tables(runs)
    main = runs[0].task.main_metric
    assert (table.metric, list(table.criteria)) == ("lds", ["lds", main])
    assert [row.record.method.label for row in table.ranked] == ["b", "a"]
    assert build_tables(runs, main)[0].metric == main
    text = printed(Leaderboard([table]))
    assert f"{main} ↑" in text and "trained again without some of the items" in text
    (table,) = build_tables([*runs, record("c", noisy(0.5))])
    assert [row.reason for row in table.below] == ["no lds"]
    (table,) = build_tables([*runs, *(record(label, noisy(0.5)) for label in "cde")])
    assert (table.metric, table.below) == (main, [])


def test_times_of_a_busy_machine_are_marked_and_said_to_be():
    quiet, busy = printed(Leaderboard(build_tables([on("a", 4, 0.9)]))), build_tables([on("a", 4, 1.1)])
    assert "~" not in quiet
    assert "1 s ~" in printed(Leaderboard(busy)) and "kept more than a quarter" in printed(Leaderboard(busy))
    assert "1 s \\~" in Leaderboard(busy).to_markdown()
    assert "~" not in printed(Leaderboard(busy), columns=("rank", "method", "score"))
    (row,) = make_board(busy[0], "run").rows
    assert "1 s ~" in [cell.text for cell in row.costs]


def test_markdown_csv_and_json_take_columns_and_order(published):
    board = rank_records(published, ["ddpm-mnist-mini"])
    header, rule, first, *_ = board.to_markdown(["method,size"], "size").splitlines()[2:]
    assert (header, rule, first) == ("| method | storage |", "|---|--:|", "| dmin:v=none | none |")
    names, row, *_ = board.to_csv(["method", "average-precision"], "method").splitlines()
    assert names.startswith("task,method,tuned_from,average-precision,average-precision_low")
    assert row.startswith("ddpm-mnist-mini,d-trak,,0.")


def test_of_paths_in_options_the_heading_shows_the_last_part_alone():
    plain = record("a", noisy(0.5))
    task = plain.task.model_copy(update={"options_given": {"weights": "/home/me/secret/w.safetensors", "k": "3"}})
    (table,) = build_tables([plain.model_copy(update={"task": task})])
    assert table.task == "t:weights=w.safetensors,k=3"
