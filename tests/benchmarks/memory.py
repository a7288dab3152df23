"""Peak resident memory, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.benchmarks.timing import Figure

LIMIT = 10.5e9


def sd3_full() -> list[Figure]:
    """SD 3 Medium's transformer, 2.03 billion parameters in fp32, 32x32 latents: one (sample, timestep)."""
    found = in_child("tests.benchmarks.sd3_full")
    weights, plain = found["weights_bytes"], found["plain_seconds"]
    figures = []
    for form in ("rotation", "factored"):
        peak, seconds = found[f"{form} peak_resident"], found[f"{form} seconds"]
        figures += [
            Figure(f"sd3-full, {form}, peak resident", peak, "B", "10.5 GB", LIMIT, peak / LIMIT, "<= 1"),
            Figure(f"sd3-full, {form}, peak resident", peak, "B", "the weights", weights, peak / weights),
            Figure(f"sd3-full, {form}, to three lengths", seconds, "s", "plain backward", plain, seconds / plain),
        ]
    return figures


def ddpm_pass() -> list[Figure]:
    """A pass over 64 items of ddpm-mnist-mini at T = 5 to v = 4096, above what the libraries alone take."""
    found = in_child("tests.benchmarks.ddpm_pass")
    return [
        Figure(
            "ddpm-mnist-mini pass, resident above imports",
            found["peak"] - found["before"],
            "B",
            "64 x 5 whole gradients",
            found["whole"],
            (found["peak"] - found["before"]) / found["whole"],
        ),
        Figure(
            "bytes an item, v = 4096, T = 5",
            found["kept"],
            "B",
            "its whole gradients",
            found["whole"] / 64,
            found["kept"] / (found["whole"] / 64),
        ),
    ]


def in_child(module: str, *arguments: object) -> dict[str, Any]:
    """Run a module with arguments in a process of its own, and return what it prints as JSON in its last line."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
