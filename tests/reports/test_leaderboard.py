import csv
import io
import json

import numpy as np
import pytest

from attrbench.contracts.record import (
    Coverage,
    MethodInfo,
    MetricResult,
    Record,
    TaskInfo,
    TrainingNoise,
    read_records,
    write_record,
)
from attrbench.contracts.record_costs import Hardware, Latency, Quantiles, Storage
from attrbench.contracts.record_origin import Provenance
from attrbench.metrics.intervals import mean_interval
from attrbench.reports import leaderboard_table
from attrbench.reports.columns import COLUMNS, cells
from attrbench.reports.compare import compare_records
from attrbench.reports.leaderboard_table import to_csv, to_json, to_markdown
from attrbench.reports.quantities import human_bytes, human_seconds
from attrbench.reports.ranking import build_tables
from attrbench.reports.table_cells import caption, storage_text
from attrbench.reports.terminal_board import to_rich


def record(
    label, values, *, status="complete", rows=1000, seconds=1.0, hardware="cpu", task="t", version=1, created="1"
):
    interval = mean_interval(values)
    quantiles = Quantiles(p50=seconds, p95=seconds)
    return Record(
        identity=label * 10,
        status=status,
        error="boom" if status == "failed" else None,
        created=created,
        task=TaskInfo(
            name=task,
            version=version,
            label=task,
            options_given={},
            options={},
            fingerprint=f"{task}{version}",
            main_metric="d@1",
        ),
        method=MethodInfo(
            name=label, version=1, label=label, summary="", distribution="x", options_given={}, options={"label": label}
        ),
        coverage=Coverage(train_items=10, train_total=10, queries=len(values), queries_total=len(values)),
        metrics=[]
        if status == "failed"
        else [
            MetricResult(
                metric="d",
                k=1,
                value=float(np.mean(values)),
                low=interval[0],
                high=interval[1],
                ceiling=1.0,
                random=0.1,
                per_query=list(values),
                higher_is_better=True,
            )
        ],
        storage=Storage(rows=rows, rows_on_disk=rows, shared=0, index=0),
        latency=Latency(cache=1, fit=1, gradient=quantiles, score=quantiles, query=quantiles),
        hardware=Hardware(hardware_class=hardware, device="", processor="", cores=1, threads=1, memory_bytes=1),
        provenance=Provenance(attrbench="0", code="", packages={}, python="3", git_revision=None, git_dirty=None),
        seed=0,
        command="",
    )


def noisy(mean, seed=0, n=40):
    return list(np.clip(mean + 0.1 * np.random.default_rng(seed).standard_normal(n), 0, 1))


def test_methods_that_the_paired_bootstrap_cannot_separate_share_a_rank():
    base = noisy(0.8)
    swapped = [base[1], base[0], *base[2:]]
    tables = build_tables([record("low", noisy(0.3, 1)), record("a", base), record("b", swapped)])
    assert [(row.record.method.label, row.rank) for row in tables[0].ranked] == [("a", 1), ("b", 1), ("low", 3)]


def test_a_small_but_consistent_difference_separates():
    base = noisy(0.5, n=60)
    better = [value + 0.01 for value in base]
    tables = build_tables([record("a", base), record("b", better)])
    assert [(row.record.method.label, row.rank) for row in tables[0].ranked] == [("b", 1), ("a", 2)]


@pytest.mark.parametrize("status", ["limited", "partial", "failed"])
def test_incomplete_runs_stand_below_the_line(status):
    table = build_tables([record("a", noisy(0.2)), record("b", noisy(0.9), status=status)])[0]
    assert [row.record.method.label for row in table.ranked] == ["a"]
    assert [row.record.method.label for row in table.below] == ["b"]
    assert status in table.below[0].reason
    assert table.below[0].rank is None


def test_scale_runs_are_never_ranked_and_are_called_so():
    plain = record("a", noisy(0.2))
    scale = record("b", noisy(0.9))
    scale = scale.model_copy(update={"task": scale.task.model_copy(update={"scale": True})})
    (table,) = build_tables([plain, scale])
    assert [row.record.method.label for row in table.ranked] == ["a"]
    assert [(row.record.method.label, row.rank) for row in table.below] == [("b", None)]
    assert table.below[0].reason.startswith("scale run: 10 items")


def test_records_from_before_scale_runs_are_none():
    document = json.loads(record("a", noisy(0.2)).model_dump_json())
    del document["task"]["scale"]
    assert not Record.model_validate(document).task.scale


def test_a_run_without_groups_shows_its_costs_and_says_why_it_has_no_rank():
    ungrouped = record("a", [0.5, 0.5]).model_copy(update={"metrics": [], "notes": ["no groups: rankings only"]})
    (table,) = build_tables([ungrouped])
    assert not table.ranked
    (line,) = [line for line in to_markdown([table]).splitlines() if line.startswith("| –")]
    assert line.startswith("| – | a (no d@1; no groups: rankings only) |  | 1 kB | 1 s |")


def test_versions_and_tasks_are_never_mixed():
    records = [
        record("a", noisy(0.5)),
        record("c", noisy(0.5), version=2),
        record("d", noisy(0.5), task="u"),
    ]
    tables = build_tables(records)
    assert len(tables) == 3
    assert all(len(table.ranked) == 1 for table in tables)


def test_of_repeated_runs_only_the_newest_counts():
    table = build_tables([record("a", noisy(0.9), created="1"), record("a", noisy(0.2), created="2")])[0]
    assert len(table.ranked) == 1
    assert table.ranked[0].record.created == "2"


def test_pareto_marks_the_undominated_and_nothing_that_is_not_above_chance():
    table = build_tables(
        [
            record("best", noisy(0.9), rows=1000, seconds=10),
            record("small", noisy(0.5), rows=10, seconds=10),
            record("beaten", noisy(0.4), rows=20, seconds=10),
            record("chance", noisy(0.1), rows=1, seconds=0.1),
        ]
    )[0]
    assert [row.record.method.label for row in table.ranked if row.pareto] == ["best", "small"]


def test_a_run_is_on_the_pareto_front_where_no_other_of_its_machine_is_as_good_small_and_fast():
    rng = np.random.default_rng(0)
    runs = []
    for number in range(300):
        quality, rows, seconds = rng.integers(0, 5, 3)  # few values, so that many are equal
        values = 0.5 + 0.1 * quality + np.linspace(-0.01, 0.01, 10)
        runs.append(record(f"m{number}", values, rows=int(rows), seconds=float(seconds), hardware=f"cpu{number % 2}"))

    def costs(run):
        return -run.metrics[0].value, run.storage.total, run.latency.query.p50

    def dominates(a, b):
        return a.hardware == b.hardware and np.all(np.array(costs(a)) <= costs(b)) and costs(a) != costs(b)

    for row in build_tables(runs)[0].ranked:
        assert row.pareto == (not any(dominates(other, row.record) for other in runs)), row.record.method.label


def test_columns_are_looked_up_once_for_all_runs(monkeypatch):
    tables = build_tables([record(f"m{number}", noisy(0.5), task=f"t{number % 3}") for number in range(9)])
    calls = []
    original = leaderboard_table.request_columns
    monkeypatch.setattr(leaderboard_table, "request_columns", lambda *given: calls.append(1) or original(*given))
    for to_text in (to_csv, to_json, to_markdown):
        calls.clear()
        to_text(tables, ["rank,method,size"])
        assert len(calls) == 1, to_text


def test_every_format_shows_every_run_and_text_is_escaped():
    nasty = "m|[red]<b>"
    tables = build_tables(
        [record(nasty, noisy(0.5)), record("b", noisy(0.4)), record("c", noisy(0.3), status="failed")]
    )
    markdown = to_markdown(tables)
    assert "m\\|[red]&lt;b>" in markdown
    assert "random ranking (analytic)" in markdown
    assert "failed: boom" in markdown
    rows = list(csv.DictReader(io.StringIO(to_csv(tables))))
    assert [row["method"] for row in rows] == [nasty, "b", "c"]
    assert float(rows[0]["value"]) == pytest.approx(tables[0].ranked[0].record.metrics[0].value)
    document = json.loads(to_json(tables))
    assert [row["rank"] for row in document[0]["rows"]] == [1, 2, None]
    from rich.console import Console

    console = Console(width=200, file=io.StringIO())
    console.print(to_rich(tables[0]))
    assert nasty in console.file.getvalue()


def test_another_metric_can_rank_and_runs_without_it_fall_below():
    assert not build_tables([record("a", noisy(0.5))], metric="other")[0].ranked


def test_records_survive_writing_and_reading(tmp_path):
    original = record("a", noisy(0.5))
    path = write_record(original, tmp_path)
    assert path.parent.name == "t"
    assert read_records(tmp_path) == ([original], [])


def test_unreadable_and_foreign_files_are_named_and_left_out(tmp_path):
    write_record(record("a", noisy(0.5)), tmp_path)
    (tmp_path / "half.json").write_text('{"schema_version": 1, "iden')
    (tmp_path / "future.json").write_text('{"schema_version": 99}')
    (tmp_path / "other.json").write_text('{"hello": 1}')
    records, problems = read_records(tmp_path)
    assert len(records) == 1
    assert len(problems) == 2
    assert any("half.json" in problem for problem in problems)
    assert any("99" in problem for problem in problems)
    assert all("\n" not in problem for problem in problems)


def test_units_are_readable():
    assert [human_bytes(x) for x in (12, 12_345, 327_680_000, 3.4e10)] == ["12 B", "12.3 kB", "328 MB", "34 GB"]
    assert [human_seconds(x) for x in (1e-5, 0.0312, 44.3, 7200)] == ["10 µs", "31.2 ms", "44.3 s", "2 h"]


def test_a_value_that_rounds_to_nothing_has_no_sign():
    run = record("m", [-0.0001, -0.0003])
    score = run.metrics[0].model_copy(update={"criterion": True})
    (table,) = build_tables([run.model_copy(update={"metrics": [score]})])
    shown = cells(table, table.ranked[0], [COLUMNS["metric"], COLUMNS["of-ceiling"]])
    assert shown == ["0.000", "0.00"]


def test_storage_says_what_of_it_is_an_index_beside_the_rows():
    sizes = {"rows_on_disk": 0, "shared": 8}
    assert storage_text(Storage(rows=2_000_000, index=50_000, **sizes)) == "2.05 MB (index 50 kB)"
    assert storage_text(Storage(rows=0, index=50_000, **sizes)) == "50 kB"
    assert storage_text(Storage(rows=2_000_000, index=0, **sizes)) == "2 MB"
    assert storage_text(Storage(rows=0, index=0, rows_if_kept=7000, **sizes)) == "8 B (7 kB if kept)"
    nothing = Storage(rows=0, index=0, rows_if_kept=7000, rows_on_disk=0, shared=0)
    assert storage_text(nothing) == "none (7 kB if kept)"


def of_models(label, values, ceiling, parts=8):
    """A run of retrained models: its noise has a part for each, and its ceiling tells how many seeds they had."""
    one = record(label, values)
    noise = TrainingNoise(error=1e-3, freedom=7.0, parts=None if parts is None else [1e-3 / parts**0.5] * parts)
    return one.model_copy(update={"metrics": [one.metrics[0].model_copy(update={"ceiling": ceiling, "noise": noise})]})


@pytest.mark.parametrize("other", [{"ceiling": 0.95}, {"ceiling": 0.9, "parts": 12}, {"ceiling": None, "parts": 12}])
def test_runs_with_banks_of_different_sizes_are_not_told_apart_and_the_board_says_so(other):
    runs = [
        of_models("a", noisy(0.5), 0.9),
        of_models("b", noisy(0.3, 1), 0.9),
        of_models("new", noisy(0.8, 2), **other),
    ]
    (table,) = build_tables(runs)
    assert [(row.record.method.label, row.rank) for row in table.ranked] == [("new", 1), ("a", 1), ("b", 3)]
    assert "new: by other retrained models than most runs" in " ".join(caption(table))
    assert "other retrained models" not in " ".join(caption(build_tables(runs[:2])[0]))
    for pair in ((runs[0], runs[2]), (runs[2], runs[0])):
        (difference,) = compare_records(*pair, ("d@1",), 0).differences
        assert difference.interval is None and difference.of_other_models and not difference.better
    same = compare_records(runs[0], runs[1], ("d@1",), 0).differences[0]
    assert same.interval is not None and not same.of_other_models and same.better == "A"


def test_a_run_of_before_whose_noise_has_no_parts_is_compared_with_those_that_have():
    runs = [of_models("a", noisy(0.8), 0.9), of_models("b", noisy(0.3, 1), 0.9, parts=None)]
    (table,) = build_tables(runs)
    assert [row.rank for row in table.ranked] == [1, 2] and "other retrained" not in " ".join(caption(table))
    assert compare_records(*runs, ("d@1",), 0).differences[0].better == "A"


def test_runs_of_a_ground_truth_with_a_ceiling_for_each_are_compared():
    runs = [record("a", noisy(0.8)), record("b", noisy(0.3, 1))]
    runs = [
        run.model_copy(update={"metrics": [run.metrics[0].model_copy(update={"ceiling": ceiling})]})
        for run, ceiling in zip(runs, (0.9, 0.95), strict=True)
    ]
    assert [row.rank for row in build_tables(runs)[0].ranked] == [1, 2]


def test_a_method_that_ran_on_two_machines_is_explained_where_no_time_is_shown():
    runs = [record("a", noisy(0.8)), record("a", noisy(0.8), hardware="other", created="2")]
    (table,) = build_tables(runs)
    assert [row.record.method.label for row in table.ranked] == ["a", "a"]
    assert "several classes of hardware, for which a has a row each" in " ".join(caption(table, ["method"]))
    assert "comparable only between runs on one of these" in " ".join(caption(table))
    different = build_tables([runs[0], record("b", noisy(0.8), hardware="other")])[0]
    assert "a row each" not in " ".join(caption(different, ["method"]))
