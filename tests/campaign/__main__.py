"""`make faults`: the campaign, or with `--part` and `--trial` a part or a single trial of it.

Prints one table; `--json FILE` also writes it. Each trial that fails is told with the command that repeats it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tests.campaign.bench import Bench
from tests.campaign.parts import PARTS
from tests.campaign.trials import Outcome, Part, Row, run_part

LINE = "{:<16}{:>8}{:>8}{:>8}{:>10}  {}\n"
EVERY = 100


def main() -> int:
    """Run the trials, print the table, and return 1 if one failed."""
    arguments = _parser().parse_args()
    chosen = [PARTS[name] for name in arguments.part or PARTS]
    rows = []
    with tempfile.TemporaryDirectory(prefix="campaign-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder).resolve())
        for part in chosen:
            trials = range(part.trials if arguments.trials is None else arguments.trials)
            if arguments.trial is not None:
                trials = range(arguments.trial, arguments.trial + 1)
            rows.append(run_part(bench, part, arguments.seed, trials, arguments.jobs, teller(part, arguments.seed)))
    sys.stdout.write(table(rows))
    if arguments.json:
        document = {"seed": arguments.seed, "parts": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return int(any(row.failed for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be given several times")
    parser.add_argument("--trial", type=int, help="only this trial of each part")
    parser.add_argument("--trials", type=int, help="so many trials of each part [default: the part's own number]")
    parser.add_argument("--seed", type=int, default=0, help="of the campaign [default: 0]")
    parser.add_argument("--jobs", type=int, default=2, help="processes [default: 2]")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    return parser


def table(rows: list[Row]) -> str:
    """Return the table of the parts that were tried."""
    head = LINE.format("part", "tried", "held", "failed", "seconds", "what is tried")
    return head + "".join(
        LINE.format(row.part, row.tried, row.held, row.failed, f"{row.seconds:.0f}", PARTS[row.part].what)
        for row in rows
    )


def teller(part: Part, seed: int) -> Callable[[Outcome], None]:
    """Return a function that tells of a trial that failed, and now and then how many are done."""
    done = 0

    def tell(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        if outcome.wrong is not None:
            again = f"python -m tests.campaign --part {part.name} --trial {outcome.trial} --seed {seed}"
            sys.stdout.write(f"FAILED  {again}\n        {outcome.wrong}\n")
            sys.stdout.flush()
        if done % EVERY == 0:
            sys.stderr.write(f"{part.name}: {done} trials\n")

    return tell


if __name__ == "__main__":
    sys.exit(main())
