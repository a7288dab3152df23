"""Commands that compute nothing, as whole processes, against what Python and torch take to start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.timing import Figure, paired


def speed() -> list[Figure]:
    """`--help` and `list` against a bare interpreter; a run whose results are all known against `import torch`."""
    command = [sys.executable, "-c", "from attrbench.cli.app import main; main()"]

    def call(arguments: list[str]) -> None:
        subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    bare, torch = ([sys.executable, "-c", code] for code in ("pass", "import torch"))
    figures = [
        paired(f"attrbench {verb}", lambda verb=verb: call([*command, verb]), "python -c pass", lambda: call(bare))
        for verb in ("--help", "list")
    ]
    with tempfile.TemporaryDirectory() as folder:
        places = ["--out", str(Path(folder, "out")), "--cache", str(Path(folder, "cache"))]
        known = [*command, "run", "-m", "pixel", "-t", "ddpm-mnist-mini", *places]
        figures.append(paired("attrbench run, all known", lambda: call(known), "import torch", lambda: call(torch)))
    return figures
