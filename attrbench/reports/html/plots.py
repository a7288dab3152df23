"""The plots of a report: quality against costs, quality by cut-off, and one criterion against another."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from attrbench.contracts.record import MetricResult, Record
from attrbench.metrics.metric_agreement import weighted_rank_correlation
from attrbench.reports.html.plot import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Guide,
    Line,
    Mark,
    Plot,
    Tick,
    place_labels,
    polyline,
    value_ticks,
)
from attrbench.reports.html.scale import Scale, linear, logarithmic
from attrbench.reports.quantities import human_bytes, human_seconds
from attrbench.reports.ranking import Row, Table
from attrbench.reports.table_cells import metric_text, shown

HIGHLIGHT = "highlight"
"""The kind of the marks of methods that are to stand out."""
SERIES = 6
"""Methods that are drawn in a color of their own."""
FREE = 1e-9
"""A cost that is none, which a logarithmic axis has no place for: it gets one at its beginning."""
FREE_ROOM = 44
"""Width in pixels that the tick of such costs takes."""
NEAR = 1.5
"""A ceiling is drawn where it is at most so many times the best value; else the curves would be flat."""


def pareto_plots(table: Table) -> list[Plot]:
    """Return the metric against storage and against the time of a query; none where no run is ranked."""
    if not table.ranked:
        return []
    timed = _of_one_machine(table)
    return [
        _pareto(table, "storage", lambda record: record.storage.total if record.storage else 0, human_bytes),
        _pareto(timed, "time of a query (median)", lambda r: r.latency.query.p50 if r.latency else 0.0, human_seconds),
    ]


def _of_one_machine(table: Table) -> Table:
    """Return the table with the ranked runs of the class of hardware that has most: times of others are no match."""
    classes = [row.record.hardware.times_class for row in table.ranked]
    first = next(name for name in table.machines if name in classes)
    rows = [row for row, name in zip(table.ranked, classes, strict=True) if name == first]
    return replace(table, ranked=rows, machines=[first])


def _pareto(table: Table, cost: str, cost_of: Callable[[Record], float], text_of: Callable[[float], str]) -> Plot:
    costs = [float(cost_of(row.record)) for row in table.ranked]
    results = [_result(row, table.metric) for row in table.ranked]
    x, ticks = _cost_axis(costs, text_of)
    y = _quality_scale(results, table.random, table.ceiling)
    marks = [
        Mark(
            x=x.at(max(value, FREE)),
            y=y.at(result.value),
            kind=_kind(table, row),
            title=f"{shown(row.record.method.label)}: {metric_text(result)}, {text_of(value) if value else 'none'}",
            y_low=None if result.low is None else y.at(result.low),
            y_high=None if result.high is None else y.at(result.high),
        )
        for row, value, result in zip(table.ranked, costs, results, strict=True)
    ]
    front = _front(costs, [result.value if result.higher_is_better else -result.value for result in results])
    steps = [(marks[place].x, marks[place].y) for place in front]
    notable = [
        *(place for place, mark in enumerate(marks) if _is_highlighted(mark)),
        *reversed(front),
        *(place for place, row in enumerate(table.ranked) if row.pareto and place not in front),
    ]
    labels = [shown(row.record.method.label) for row in table.ranked]
    named = [(marks[place], labels[place]) for place in dict.fromkeys(notable)]
    metric = shown(table.metric)
    best = ", ".join([labels[place] for place in reversed(front)][:4])
    guides = _guides(table.random, table.ceiling, y)
    return Plot(
        title=f"{metric} against {cost}",
        description=f"No run is both better and cheaper than those on the line; from the best on: {best}."
        f" Runs on {shown(table.hardware)}.",
        x_title=f"{cost}, logarithmic",
        y_title=metric,
        x_ticks=ticks,
        y_ticks=value_ticks(y),
        marks=sorted(marks, key=_is_highlighted),
        lines=[Line(polyline(_steps(steps)), "front")],
        guides=guides,
        labels=place_labels(named, marks, guides, kept=sum(map(_is_highlighted, marks))),
        legend=[
            ("front", "no run is both better and cheaper"),
            ("pareto", "on the Pareto front of quality, size and time"),
            *_highlighted_legend(marks),
        ],
    )


def _kind(table: Table, row: Row) -> str:
    """Return the kind of a run's mark: one that is to stand out, one on the Pareto front, or another."""
    if row.is_of(table.highlight):
        return HIGHLIGHT
    return "pareto" if row.pareto else "other"


def _is_highlighted(mark: Mark) -> bool:
    return mark.kind == HIGHLIGHT


def _highlighted_legend(marks: Sequence[Mark]) -> list[tuple[str, str]]:
    return [(HIGHLIGHT, "highlighted")] if any(map(_is_highlighted, marks)) else []


def _cost_axis(costs: Sequence[float], text_of: Callable[[float], str]) -> tuple[Scale, list[Tick]]:
    """Return a logarithmic scale and its ticks; costs of nothing lie at its beginning, under the tick `none`."""
    above = [cost for cost in costs if cost > 0] or [1.0]
    scale = logarithmic(above, LEFT, RIGHT)
    free = min(costs) <= 0
    if free:
        scale = Scale(scale.low / 8, scale.high, LEFT, RIGHT, logarithmic=True)
    first = LEFT + FREE_ROOM if free else LEFT
    ticks = [Tick(scale.at(value), text_of(value)) for value in scale.ticks() if scale.at(value) >= first]
    return scale, [Tick(LEFT, "none"), *ticks] if free else ticks


def _front(costs: Sequence[float], qualities: Sequence[float]) -> list[int]:
    """Return the runs than which no other is both at least as good and as cheap, the cheapest first."""
    front: list[int] = []
    for place in sorted(range(len(costs)), key=lambda place: (costs[place], -qualities[place])):
        if not front or qualities[place] > qualities[front[-1]]:
            front.append(place)
    return front


def _steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points joined by steps, and on to the right edge: what one gets for a cost."""
    stepped: list[tuple[float, float]] = []
    for x, y in points:
        stepped += [(x, stepped[-1][1])] if stepped else []
        stepped.append((x, y))
    return [*stepped, (RIGHT, stepped[-1][1])]


def curve_plots(table: Table) -> list[Plot]:
    """Return for each metric with several cut-offs its value at each of them, by method."""
    names = [result.metric for row in table.ranked for result in row.record.metrics if result.k is not None]
    plots = [_curves(table, name) for name in dict.fromkeys(names)]
    return [plot for plot in plots if plot is not None]


def _curves(table: Table, metric: str) -> Plot | None:
    """Return the curves of a metric: the best run of each method in color, the others in gray; None for one cut-off."""
    runs = [(row, results) for row in table.ranked if len(results := _cutoffs(row.record, metric)) > 1]
    colored = _best_of_methods([row for row, _ in runs], table.highlight)
    if len(colored) < 2:
        return None
    cutoffs = sorted({result.k for _, results in runs for result in results if result.k})
    x = logarithmic(cutoffs, LEFT, RIGHT)
    example = max((results for _, results in runs), key=len)
    y = _quality_scale([r for _, rs in runs for r in rs], None, max((r.ceiling or 0.0 for r in example), default=None))
    others = len(runs) - len(colored)
    first = ", highlighted ones first" if any(row.is_of(table.highlight) for row in colored) else ""
    lines = [Line(_curve(results, x, y), "faint") for row, results in runs if row not in colored]
    marks: list[Mark] = []
    for place, row in enumerate(colored):
        results = _cutoffs(row.record, metric)
        lines.append(Line(_curve(results, x, y), f"series{place}"))
        label = shown(row.record.method.label)
        marks += [
            Mark(x.at(r.k or 1), y.at(r.value), f"series{place}", f"{label}: {r.name} {metric_text(r)}")
            for r in results
        ]
    for kind, values in (("random", [r.random for r in example]), ("ceiling", [r.ceiling for r in example])):
        points = [(x.at(r.k or 1), y.at(v)) for r, v in zip(example, values, strict=True) if v is not None]
        lines += [Line(polyline(points), kind)] if len(points) > 1 else []
    return Plot(
        title=f"{shown(metric)} by cut-off k",
        description=f"The best run of each of {len(colored)} methods in color{first}, with the expectation of a random"
        f" ranking and the ceiling{f'; {others} other runs in gray' if others else ''}.",
        x_title="k, logarithmic",
        y_title=shown(metric),
        x_ticks=[Tick(x.at(k), str(k)) for k in cutoffs],
        y_ticks=value_ticks(y),
        marks=marks,
        lines=lines,
        legend=[
            *((f"series{place}", _curve_name(table, row)) for place, row in enumerate(colored)),
            *([("faint", "other runs")] if others else []),
            ("random", "random ranking"),
            ("ceiling", "ceiling"),
        ],
    )


def _curve_name(table: Table, row: Row) -> str:
    return shown(row.record.method.label) + " (highlighted)" * row.is_of(table.highlight)


def _cutoffs(record: Record, metric: str) -> list[MetricResult]:
    found = [result for result in record.metrics if result.metric == metric and result.k is not None and result.finite]
    return sorted(found, key=lambda result: result.k or 0)


def _curve(results: Sequence[MetricResult], x: Scale, y: Scale) -> str:
    return polyline([(x.at(result.k or 1), y.at(result.value)) for result in results])


def _best_of_methods(rows: Sequence[Row], highlight: Collection[str]) -> list[Row]:
    """Return the best run of each method, of those methods that are best; runs that are to stand out come first."""
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: not row.is_of(highlight)):
        best.setdefault(row.record.method.name, row)
    return list(best.values())[:SERIES]


def criterion_plots(table: Table) -> list[Plot]:
    """Return the metric that ranks against each other kind of metric that at least three ranked runs have."""
    rows, main = table.ranked, table.metric
    if not rows:
        return []
    own = _result(rows[0], main)
    names = dict.fromkeys(
        result.name
        for row in rows
        for result in row.record.metrics
        if result.metric not in (own.metric, "recall", "ann-recall") and result.k in (None, own.k or 10)
    )
    plots = [_criteria(table, name) for name in names]
    return [plot for plot in plots if plot is not None]


def _criteria(table: Table, other: str) -> Plot | None:
    main = table.metric
    pairs = [(row, _result(row, main), row.record.metric(other)) for row in table.ranked]
    known = [(row, one, two) for row, one, two in pairs if two is not None and two.finite]
    if len(known) < 3:
        return None
    x = linear(_ends([two for _, _, two in known]), LEFT, RIGHT)
    y = linear(_ends([one for _, one, _ in known]), BOTTOM, TOP)
    marks = [
        Mark(
            x.at(two.value),
            y.at(one.value),
            _kind(table, row),
            f"{shown(row.record.method.label)}: {one.name} {metric_text(one)}, {two.name} {metric_text(two)}",
            *(None if end is None else y.at(end) for end in (one.low, one.high)),
            *(None if end is None else x.at(end) for end in (two.low, two.high)),
        )
        for row, one, two in known
    ]
    first, second = np.array([one.value for _, one, _ in known]), np.array([two.value for _, _, two in known])
    correlation = float(weighted_rank_correlation(first, second, np.ones((1, len(known))))[0])
    agreement = "no rank correlation" if math.isnan(correlation) else f"rank correlation {correlation:.2f}"
    labels = [(mark, shown(row.record.method.label)) for mark, (row, _, _) in zip(marks, known, strict=True)]
    labels.sort(key=lambda label: label[0].kind != HIGHLIGHT)
    kept = sum(map(_is_highlighted, marks))
    return Plot(
        title=f"{shown(main)} against {shown(other)}",
        description=f"One point a run, {len(known)} runs; {agreement} (Spearman).",
        x_title=shown(other),
        y_title=shown(main),
        x_ticks=value_ticks(x),
        y_ticks=value_ticks(y),
        marks=sorted(marks, key=_is_highlighted),
        labels=place_labels(labels[: SERIES + kept], marks, kept=kept),
        legend=_highlighted_legend(marks),
    )


def _result(row: Row, metric: str) -> MetricResult:
    result = row.record.metric(metric)
    assert result is not None  # ranked runs have it
    return result


def _ends(results: Sequence[MetricResult]) -> list[float]:
    """Return the values of results and the ends of their intervals."""
    return [value for r in results for value in (r.low, r.value, r.high) if value is not None]


def _quality_scale(results: Sequence[MetricResult], random: float | None, ceiling: float | None) -> Scale:
    """Return the vertical scale of results: it holds the random ranking, and a ceiling that is near."""
    values = _ends(results) + ([random] if random is not None else [])
    if ceiling is not None and ceiling <= NEAR * max(values):
        values.append(ceiling)
    return linear(values, BOTTOM, TOP)


def _guides(random: float | None, ceiling: float | None, y: Scale) -> list[Guide]:
    """Return the lines of random ranking and ceiling, of the latter only where it is in the picture."""
    found = [("random", random), ("ceiling", ceiling if ceiling is None or ceiling <= y.high else None)]
    return [Guide(y.at(value), f"{kind} {value:.3f}", kind) for kind, value in found if value is not None]
