"""`make bench`: ratios, each against a reference measured in the same run. Times alone say more about the machine.

Prints one table; `--json FILE` also writes it. `BENCH=name` (or names as arguments) runs some of them; those that
take minutes run only when they are named.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks import (
    board,
    cached_rows,
    executors,
    factored,
    gradients,
    gram,
    matrix,
    memory,
    million,
    search,
    similarity,
    sketches,
    startup,
)
from tests.benchmarks.timing import Figure, print_figure, print_heading

BENCHMARKS: dict[str, Callable[[], Iterable[Figure]]] = {
    "gradients": gradients.speed,
    "sketch": sketches.speed,
    "gram": gram.exact,
    "search": search.speed,
    "memory": memory.ddpm_pass,
    "ssim": similarity.ssim,
    "startup": startup.speed,
}
LONG: dict[str, Callable[[], Iterable[Figure]]] = {
    "added": cached_rows.added,
    "board": board.speed,
    "executors": executors.speed,
    "factored": factored.speed,
    "factored-errors": factored.errors,
    "matrix": matrix.together,
    "million": million.growth,
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
    print_heading()
    results = []
    for name in arguments.names or BENCHMARKS:
        for figure in known[name]():
            print_figure(figure)
            results.append(figure)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(f) for f in results], indent=1) + "\n")


main()
