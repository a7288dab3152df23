"""The numbers of a record as text (bytes, seconds, intervals), and the lines below a leaderboard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from attrbench.contracts.record import MetricResult, Record
from attrbench.contracts.record_costs import Storage
from attrbench.contracts.record_origin import Tried
from attrbench.metrics.comparisons import bank_of, most_usual_bank
from attrbench.reports.quantities import human_bytes, human_seconds
from attrbench.reports.ranking import Table
from attrbench.text import one_line

LONGEST = 400
"""Characters of a text from a record that a cell shows at most."""


def shown(text: object) -> str:
    """Return a text from a record, such as a label or an error, on one line, printable, and cut where it is long."""
    line = one_line(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def method_text(record: Record) -> str:
    """Return a run's method with its options as text (`dmin:v=4096`), marked `(tuned)` if they were tuned."""
    return shown(record.method.label) + (" (tuned)" if record.tuned is not None else "")


def ranking_results(record: Record) -> list[MetricResult]:
    """Return the results by which a board can rank a run: those of ground truths, then the task's main metric."""
    found = [result for result in record.metrics if result.criterion or result.name == record.task.main_metric]
    return sorted(found, key=lambda result: not result.criterion)


def criteria_first(record: Record, names: Iterable[str]) -> list[str]:
    """Return names of a run's metrics with those first by which a board can rank it."""
    order = {result.name: place for place, result in enumerate(ranking_results(record))}
    return sorted(names, key=lambda name: order.get(name, len(order)))


def interval_text(result: MetricResult | Tried) -> str:
    """Return a metric's 95% interval as text `[low, high]`; empty if there is none."""
    return "" if result.low is None or result.high is None else f"[{result.low:.3f}, {result.high:.3f}]"


def value_text(result: MetricResult | None) -> str:
    """Return a metric's value as text, `0.334`; empty where it has none."""
    return f"{result.value:z.3f}" if result is not None and result.finite else ""


def share_text(result: MetricResult | None) -> str:
    """Return a metric's value as a share of its ceiling, `0.45`; empty where it has no value or no ceiling."""
    return f"{result.value / result.ceiling:z.2f}" if result is not None and result.finite and result.ceiling else ""


def metric_text(result: MetricResult | None) -> str:
    """Return a metric's value with its 95% interval as text, `0.334 [0.279, 0.390]`; empty where it has none."""
    if result is None or not result.finite:
        return ""
    return " ".join(filter(None, (value_text(result), interval_text(result))))


OF_HARDWARE = ("machine", "pareto", "query-p50", "query-p95", "amortized")
"""The columns that hang on the hardware."""


def caption(table: Table, columns: Collection[str] | None = None, tuned: str = "Tuned") -> list[str]:
    """Return the lines of explanation below a leaderboard table: data set sizes, hardware, meaning of columns.

    Args:
        table: the table.
        columns: the names of the columns that are shown; None for all.
        tuned: the word or sign by which it marks tuned runs.
    """

    def is_shown(names: Collection[str]) -> bool:
        """Return whether a line about some columns belongs below this table."""
        return columns is None or not set(names).isdisjoint(columns)

    ceiling = "" if table.ceiling is None else f", ceiling {table.ceiling:.3f}"
    lines = [f"{table.train_items} training items, {table.queries} queries, {shown(table.hardware)}{ceiling}."]
    runs = [*table.ranked, *table.below]
    if len(table.machines) > 1 and is_shown(OF_HARDWARE):
        letters = {run.record.hardware.times_class: run.machine for run in runs}
        named = "; ".join(f"{letters[name]}: {shown(name)}" for name in table.machines if name in letters)
        lines.append(f"Times and Pareto ✓ are comparable only between runs on one of these: {named}.")
    elif twice := _on_several_machines(table):
        lines.append(f"Runs of several classes of hardware, for which {shown(twice)} has a row each.")
    if table.hidden:
        lines.append(f"{len(runs)} of {len(runs) + table.hidden} runs are shown; ranks and Pareto ✓ are among all.")
    if table.controls:
        lines.append(
            f"{shown(table.metric)} is no measure of retrieval and has no cut-off: models were trained again without"
            " the items at the top. Its intervals cover training seeds and pictures."
        )
    if retrained := _is_of_retrained_models(table):
        lines.append(
            f"{shown(table.metric)} compares scores with models that were trained again without some of the items; its"
            " interval covers queries and models, its ceiling the noise of training."
        )
    if others := _of_other_models(table):
        lines.append(
            f"{shown(', '.join(others))}: by other retrained models than most runs, and so not told apart from them;"
            " run again, or take what a later run says with `attrbench score --from DIR --new-models`."
        )
    lines += _how_tuned(table, tuned)
    paired = "bootstrap over queries"
    if table.controls or retrained:
        paired = f"interval over {'seeds and pictures' if table.controls else 'queries and models'}"
    meanings = {
        ("rank",): f"Ranks count the runs that are better by the paired {paired}; those with as many share one (=).",
        ("pareto",): "Pareto ✓: no other is at least as good, small and fast.",
        ("query-p50", "query-p95"): "Query time: features and search of one query.",
        ("amortized",): "Amortized: training features and index, once a training set; a pass that served several"
        " methods counts in full for each.",
        ("storage", "size"): "Storage 'none': no gradient is kept, so every new query costs a pass over the training"
        " set.",
        (
            "query-p50",
            "query-p95",
            "amortized",
        ): "Times with ~: other processes kept more than a quarter of the cores busy meanwhile.",
    }
    told = {names: line for names, line in meanings.items() if is_shown(names)}
    if not any(run.record.storage and _is_none(run.record.storage) for run in runs):
        told.pop(("storage", "size"), None)
    if not any(run.record.hardware.is_busy for run in runs):
        told.pop(("query-p50", "query-p95", "amortized"), None)
    return [*lines, *told.values()]


def _on_several_machines(table: Table) -> str:
    """Return the first method with options that has ranked runs of several classes of hardware; empty if none has."""
    counts = Counter(method_text(row.record) for row in table.ranked)
    return next((label for label, count in counts.items() if count > 1), "")


def _of_other_models(table: Table) -> list[str]:
    """Return the methods whose ranked runs were compared with another bank of retrained models than most."""
    results = [(row, row.record.metric(table.metric)) for row in table.ranked]
    banks = [(method_text(row.record), bank_of(result)) for row, result in results if result is not None]
    usual = most_usual_bank([result for _, result in results if result is not None])
    return list(dict.fromkeys(label for label, bank in banks if bank not in (None, usual)))


def _is_of_retrained_models(table: Table) -> bool:
    """Return whether the metric that ranks comes from a ground truth, and is not the task's main metric."""
    results = (run.record.metric(table.metric) for run in table.ranked)
    return any(result is not None and result.criterion for result in results)


def time_text(record: Record, seconds: float) -> str:
    """Return a time of a run as text, marked with ~ where other processes kept the machine busy."""
    text = human_seconds(seconds)
    return f"{text} ~" if text and record.hardware.is_busy else text


def _is_none(storage: Storage) -> bool:
    return storage.total == 0 and storage.rows_if_kept is not None


def _how_tuned(table: Table, mark: str) -> list[str]:
    """Return a caption line that says how tuned options were chosen; an empty list if no run was tuned."""
    tuned = [row.record.tuned for row in [*table.ranked, *table.below] if row.record.tuned is not None]
    if not tuned:
        return []
    by = shown(", ".join(dict.fromkeys(each.by for each in tuned)))
    queries = ", ".join(dict.fromkeys(str(each.queries) for each in tuned))
    return [f"{mark}: options chosen by {by} on {queries} tuning queries, never on these; the records name all values."]


def storage_text(storage: Storage) -> str:
    """Return a method's storage as text (`327 MB`), with the size of its search index if it has one."""
    kept = storage.rows_if_kept
    if kept is not None:
        return f"{human_bytes(storage.total) if storage.total else 'none'} ({human_bytes(kept)} if kept)"
    index = f" (index {human_bytes(storage.index)})" if storage.rows and storage.index else ""
    return human_bytes(storage.total) + index
