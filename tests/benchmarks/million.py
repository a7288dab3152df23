"""A million items: time and memory of every stage at several sizes, how they grow, and what a million take.

`ROWS` is the largest size, 100,000 unless it is given; sizes for which the disk has no room are left out, and what a
million take is then predicted from the growth. `ROWS=1000000` needs 30 GB below the folder for temporary files.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.memory import in_child
from tests.benchmarks.timing import Figure

MILLION = 1_000_000
SIZES = (10_000, 30_000, 100_000, MILLION)
ROW_BYTES = 30_000
"""Bytes of a row on disk with its codes in both indexes, rounded up."""
PROBED = 96
"""Lists that a query visits, whatever the number of rows."""
STAGES = "tests.benchmarks.million_stages"
Measured = dict[str, dict[str, Any]]


def growth() -> list[Figure]:
    """Stages of a run over 10,000 and more int8 rows of 5 x 4,096 numbers, and how they grow with the number."""
    found = {count: _measured(count) for count in _sizes()}
    times = {stage: {n: each[stage]["seconds"] for n, each in found.items()} for stage in next(iter(found.values()))}
    memory = {n: max(stage["memory"] for stage in each.values()) for n, each in found.items()}
    _print(times, memory)
    largest = max(found)
    figures = [
        _at_a_million("query by lists of folded rows, median", times["query by lists"], "s", "1 s", 1.0),
        _at_a_million("query of the 1-bit index, median", times["query"], "s", "1 s", 1.0),
        _at_a_million("largest peak of own memory", memory, "B", "6 GB", 6e9),
        _at_a_million("open the store", times["open"], "s", "10 s", 10.0),
    ]
    for stage in ("query", "query by lists"):
        recall = _recall(found[largest][stage]["ids"], found[largest]["exact query"]["ids"])
        figures.append(Figure(f"recall@100 of {stage}, {largest:,}", recall, "", "exact", 1.0, recall, ">= 0.95"))
    return figures


def _sizes() -> list[int]:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    most = int(os.environ.get("ROWS", "100000"))
    sizes = [count for count in SIZES if count <= most and count * ROW_BYTES < free]
    if len(sizes) < 2:
        need = SIZES[1] * ROW_BYTES / 1e9
        raise SystemExit(f"growth takes two sizes: ROWS={SIZES[1]} or more, and {need:.1f} GB free for files (TMPDIR)")
    return sizes


def _measured(count: int) -> Measured:
    """Return what each stage took with so many rows."""
    lists = 2 ** round(math.log2(2 * count**0.5))
    one_bit = ("RaBitQ", 0, 5)
    by_lists = (f"Fold8,IVF{lists},RaBitQ", PROBED, 10)
    with tempfile.TemporaryDirectory() as folder:

        def stage(name: str, *options: object) -> dict[str, Any]:
            return in_child(STAGES, name, folder, count, *options)

        found = {"fill": stage("fill")}
        shutil.rmtree(Path(folder) / "checked", ignore_errors=True)
        found["open, all bytes read"] = stage("open")
        for name in ("open", "resume", "list", "record"):
            found[name] = stage(name)
        found["index"], found["query"] = stage("index", *one_bit), stage("query", *one_bit)
        found["index by lists"], found["query by lists"] = stage("index", *by_lists), stage("query", *by_lists)
        found["exact query"] = stage("exact")
    return found


def _recall(found: Sequence[Sequence[int]], exact: Sequence[Sequence[int]]) -> float:
    shares = [len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)]
    return float(np.mean(shares))


def exponent(values: Mapping[int, float]) -> tuple[float, float]:
    """Return the exponent e, and the value at a million, of c * n^e by least squares of the logarithms."""
    slope, constant = np.polyfit(np.log(list(values)), np.log(list(values.values())), 1)
    return float(slope), float(np.exp(constant + slope * np.log(MILLION)))


def _at_a_million(what: str, values: Mapping[int, float], unit: str, against: str, most: float) -> Figure:
    value = values.get(MILLION) or exponent(values)[1]
    how = "1,000,000" if MILLION in values else "predicted"
    return Figure(f"{what}, {how}", value, unit, against, most, value / most, "<= 1")


def _print(times: Mapping[str, Mapping[int, float]], memory: Mapping[int, float]) -> None:
    rows = {f"{stage} (s)": values for stage, values in times.items()}
    rows["largest peak of own memory (GB)"] = {count: value / 1e9 for count, value in memory.items()}
    line = "{:<34}" + "{:>12}" * len(memory) + "{:>10}{:>14}\n"
    sys.stdout.write(line.format("stage", *(f"{count:,}" for count in memory), "exponent", "at 1,000,000"))
    for stage, values in rows.items():
        slope, there = exponent(values)
        last = "" if MILLION in values else f"{there:.3g}?"
        sys.stdout.write(line.format(stage, *(f"{v:.3g}" for v in values.values()), f"{slope:.2f}", last))
