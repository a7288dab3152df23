"""`make bench`: ratios, each against a reference measured in the same run. Times alone say more about the machine.

Prints one table; `--json FILE` also writes it. `BENCH=name` (or names as arguments) runs some of them; those that
take minutes run only when they are named.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks import board, cached_rows, gradients, gram, matrix, memory, search, sketches, startup
from tests.benchmarks.timing import Figure

BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "gradients": gradients.speed,
    "sketch": sketches.speed,
    "gram": gram.exact,
    "search": search.speed,
    "memory": memory.ddpm_pass,
    "startup": startup.speed,
}
LONG: dict[str, Callable[[], list[Figure]]] = {
    "added": cached_rows.added,
    "board": board.speed,
    "matrix": matrix.together,
    "queries": cached_rows.queries,
    "sd3-full": memory.sd3_full,
    "sketch-statistics": sketches.statistics,
}


def main() -> None:
    """Runs the benchmarks and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", default=os.environ.get("BENCH", "").split(), metavar="NAME")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    known = BENCHMARKS | LONG
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    line = "{:<44}{:>10}   {:<24}{:>10}{:>11}  {}\n"
    sys.stdout.write(line.format("what", "", "against", "", "ratio", "bound"))
    results = []
    for name in arguments.names or BENCHMARKS:
        for f in known[name]():
            kept = {None: "", True: "kept", False: "MISSED"}[f.kept]
            value, reference = _with_unit(f.value, f.unit), _with_unit(f.reference, f.unit)
            sys.stdout.write(line.format(f.what, value, f.against, reference, f"{f.ratio:.4g}", f"{f.bound} {kept}"))
            sys.stdout.flush()
            results.append(f)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(f) for f in results], indent=1) + "\n")


def _with_unit(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 1e9:.3f} GB" if value >= 1e8 else f"{value:,.0f} B"
    if unit == "s":
        return f"{value:.4f} s" if value < 10 else f"{value:.1f} s"
    return f"{value:.4g}"


main()
