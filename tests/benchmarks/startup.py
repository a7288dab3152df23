"""The commands that must answer at once, as whole processes, against a bare interpreter."""

from __future__ import annotations

import subprocess
import sys

from tests.benchmarks.timing import Figure, paired


def speed() -> list[Figure]:
    command = [sys.executable, "-c", "from attrbench.cli.app import main; main()"]
    bare = [sys.executable, "-c", "pass"]

    def call(arguments: list[str]) -> None:
        subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True)

    return [
        paired(f"attrbench {verb}", lambda verb=verb: call([*command, verb]), "python -c pass", lambda: call(bare))
        for verb in ("--help", "list")
    ]
