"""Measuring in pairs: the work and its reference in turn, in one process, so that a busy machine slows both."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        what: what was measured.
        value: in `unit`.
        unit: `s`, `B` or empty.
        against: the reference.
        reference: its value, in the same unit.
        ratio: value / reference; the median of the ratios of the pairs, where there were several.
        bound: what the ratio should keep to, such as `<= 3`; empty where nothing is promised.
    """

    what: str
    value: float
    unit: str
    against: str
    reference: float
    ratio: float
    bound: str = ""

    @property
    def kept(self) -> bool | None:
        """Whether the ratio keeps to the bound; None where there is none."""
        if not self.bound:
            return None
        sign, limit = self.bound.split()
        return self.ratio <= float(limit) if sign == "<=" else self.ratio >= float(limit)


LINE = "{:<44}{:>10}   {:<24}{:>10}{:>11}  {}\n"


def print_heading() -> None:
    """Prints the titles of the table's columns."""
    sys.stdout.write(LINE.format("what", "", "against", "", "ratio", "bound"))


def print_figure(f: Figure) -> None:
    """Prints one line of the table."""
    kept = {None: "", True: "kept", False: "MISSED"}[f.kept]
    value, reference = _with_unit(f.value, f.unit), _with_unit(f.reference, f.unit)
    sys.stdout.write(LINE.format(f.what, value, f.against, reference, f"{f.ratio:.4g}", f"{f.bound} {kept}"))
    sys.stdout.flush()


def print_table(figures: Sequence[Figure]) -> None:
    """Prints a table of figures."""
    print_heading()
    for figure in figures:
        print_figure(figure)


REST = 0.01
"""Seconds between two calls, in which the threads of the one before, which wait for more by spinning, fall asleep."""


def paired(
    what: str,
    work: Callable[[], object],
    against: str,
    reference: Callable[[], object],
    bound: str = "",
    runs: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> Figure:
    """Runs the two in turn, after one warm-up each; by `time.process_time` what else the machine does counts less."""
    work(), reference()
    mine, theirs = [], []
    for _ in range(runs):
        for times, call in ((mine, work), (theirs, reference)):
            time.sleep(REST)
            times.append(seconds(call, clock))
    ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
    return Figure(what, statistics.median(mine), "s", against, statistics.median(theirs), ratio, bound)


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that one call takes."""
    started = clock()
    call()
    return clock() - started


def _with_unit(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 1e9:.3f} GB" if value >= 1e8 else f"{value:,.0f} B"
    if unit == "s":
        return f"{value:.4f} s" if value < 10 else f"{value:.1f} s"
    return f"{value:.4g}"
