"""Suites and records that are made up, to lay tables out of."""

from __future__ import annotations

import json

from attrbench.contracts.record_costs import Latency, Quantiles, Storage
from attrbench.plugins.registry import registry
from attrbench.suites.plan import plan
from attrbench.suites.read import read_suite
from attrbench.suites.runs import RunOptions, Runs
from attrbench.suites.world import SuiteWorld
from tests.reports.test_leaderboard import record

NUMBERS = {
    "title": "A paper",
    "cite": "Somebody 2026",
    "tables": {
        "t": {
            "title": "a table",
            "place": "Table 1",
            "version": "v1",
            "columns": dict.fromkeys(("all@5", "one@5", "d/item", "d/seconds", "d/speedup"), "as printed"),
            "rows": {
                "pixel": {"row": "Pixels", "cells": {"all@5": 0.9, "d/item": "20 GB", "d/seconds": 12.5}},
                "random": {"row": "Random", "cells": {"all@5": 0.1}},
            },
        }
    },
}
BASE = """
title = "A table"
paper = "numbers.json"
table = "t"
[scales.mini]
about = "not comparable"
[[tasks]]
name = "Digits"
paper = "{task}"
task = {{ mini = "digits-mini" }}
values = {{ v = "64" }}
[[rows]]
name = "Pixels"
paper = "pixel"
method = "pixel"
[[rows]]
name = "Random"
paper = "random"
method = "random"
notes = ["chance"]
[footnotes]
chance = "By chance."
"""


def write_suite(folder, top, columns, task="", numbers=NUMBERS, base=BASE):
    """Write a suite of `pixel` and `random` on digits-mini, and return its path."""
    (folder / "numbers.json").write_text(json.dumps(numbers))
    path = folder / "suite.toml"
    tables = "".join("[[columns]]\n" + "".join(f"{key} = {value!r}\n" for key, value in c.items()) for c in columns)
    path.write_text(f"{top}\n{base.format(task=task)}\n{tables}")
    return path


def world_of(path, records, scale="mini"):
    """The world of a suite with made-up records by method."""
    suite = read_suite(str(path))
    needed = plan(registry(), suite, scale)
    runs = Runs({(suite.file.tasks[0].paper, method): made for method, made in records.items()})
    return SuiteWorld(suite, scale, needed, runs, RunOptions())


def made_record(label, values, groups=(), **parts):
    """A record of detection-rate@5 with the group of each query."""
    made = record(label, values)
    result = made.metrics[0].model_copy(update={"metric": "detection-rate", "k": 5})
    return made.model_copy(update={"metrics": [result], "query_groups": list(groups) or [""] * len(values), **parts})


def storage(rows=0, kept=None):
    return Storage(rows=rows, rows_on_disk=0, shared=0, index=0, rows_if_kept=kept)


def latency(score, query):
    """Times of which the 95th percentile is twice the median."""
    times = {"gradient": 0.0, "score": score, "query": query}
    return Latency(cache=0, fit=0, **{name: Quantiles(p50=value, p95=2 * value) for name, value in times.items()})
