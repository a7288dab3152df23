"""`make cross-check`: prints the table; `--json FILE` and `--markdown FILE` also write it, with the faults.

Ends with 1 where scores differ and no shown fault of the peer explains it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from tests.cross_check.everything import CHECKS, FAULTS
from tests.cross_check.report import Fault, Row, as_json, line, markdown


def main() -> int:
    """Runs checks and reproductions one by one."""
    parser = argparse.ArgumentParser(prog="python -m tests.cross_check")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CHECKS)}, faults; all by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    unknown = set(arguments.names) - {*CHECKS, "faults"}
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}, faults")
    torch.set_num_threads(1)
    rows: list[Row] = []
    faults: list[Fault] = []
    say = sys.stdout.write
    for name in arguments.names or (*CHECKS, "faults"):
        if name == "faults":
            for show in FAULTS.values():
                faults.append(show())
                f = faults[-1]
                say(
                    f"\n{f.name} ({f.peer} {f.version}): {f.says}\n  {'shown' if f.holds else 'NOT SHOWN'}: {f.shown}\n"
                )
            continue
        for row in CHECKS[name]():
            if not rows:
                say(line(None))
            rows.append(row)
            say(line(row))
            sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(rows, faults), indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(markdown(rows, faults))
    return 0 if all(row.kept for row in rows) and all(fault.holds for fault in faults) else 1


if __name__ == "__main__":
    sys.exit(main())
