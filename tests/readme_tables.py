"""The tables of README.md, made of the published records: one row a method, in Markdown."""

from attrbench.reports.ranking import build_tables
from attrbench.reports.table_cells import metric_text

ICON_TASKS = ("sd14-lora-mini", "sd3-lora-mini", "sd3-full-mini", "ddpm-icons-mini")


def rates_by_task(records, tasks, least):
    """The main metric of every method on each task, the highest mean first; a tuned one is named by its options.

    Only of methods that stand on at least so many of the tasks, and of no options that another metric chose.
    """
    lines = [f"| detection-rate@10 | {' | '.join(f'`{task}`' for task in tasks)} |", "|---" + "|--:" * len(tasks) + "|"]
    rates = {}
    for record in records:
        chosen_by = record.task.main_metric if record.tuned is None else record.tuned.by
        if record.task.name in tasks and chosen_by == record.task.main_metric:
            label = record.method.label if record.tuned is None else without_damping(record.tuned.sweep)
            found = rates.setdefault((label, record.tuned is not None), {})
            found[record.task.name] = record.metric(record.task.main_metric).value, record.method.options.get("damping")
    rows = []
    for (label, tuned), found in rates.items():
        if len(found) < least:
            continue
        dampings = ", ".join(f"{found[task][1]:g}" if task in found else "–" for task in tasks) if tuned else ""
        name = f"`{label}`" + f", damping chosen ({dampings})" * tuned
        cells = [f"{found[task][0]:.3f}" if task in found else "" for task in tasks]
        rows.append((-sum(value for value, _ in found.values()) / len(found), f"| {name} | {' | '.join(cells)} |"))
    return "\n".join([*lines, *(line for _, line in sorted(rows)), ""])


def without_damping(sweep):
    """A sweep's label without the values of the damping that it chose from."""
    name, _, options = sweep.partition(":")
    kept = [option for option in options.split(",") if not option.startswith("damping=")]
    return ":".join(filter(None, (name, ",".join(kept))))


def removal_rows(records):
    """What was removed, and by how much thinner the strokes of a model became that was trained without it."""
    (table,) = build_tables(records)
    results = [(f"what `{row.record.method.label}` retrieves", row.record.metric(table.metric)) for row in table.ranked]
    results += [(control.name, control.result) for control in table.controls]
    lines = ["| removed | strokes thinner by, in pixels |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {metric_text(result)} |" for name, result in results), ""])


def tuned_rows(records):
    """What was chosen, what it reached where it was chosen and what on the reported queries, the best first."""
    lines = [
        "| method, as chosen | of values | tuning queries | reported queries | 95% interval |",
        "|---|--:|--:|--:|--:|",
    ]
    found = []
    for record in records:
        tried = {value.label: value.value for value in record.tuned.tried}
        result = record.metric(record.task.main_metric)
        cells = (record.method.label, len(tried), f"{tried[record.method.label]:.3f}", f"{result.value:.3f}")
        found.append((-result.value, f"| {' | '.join(map(str, cells))} | [{result.low:.3f}, {result.high:.3f}] |"))
    return "\n".join([*lines, *(line for _, line in sorted(found)), ""])
