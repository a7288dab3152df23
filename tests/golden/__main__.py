"""`python -m tests.golden capture|compare`: write golden records, or run again and compare; ends with 1 on differences.

`--digests FOLDER` writes (capture) or compares (compare) the sha256 of every complete array, which only runs on the
same machine with the same libraries and number of threads have in common.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.golden.cases import CASES, Case
from tests.golden.compare import differences, digest_differences
from tests.golden.files import RECORDS, Capture, Golden
from tests.golden.runs import OtherQueries, labels_of, run

say = sys.stdout.write


def main() -> int:
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden")
    parser.add_argument("verb", choices=("capture", "compare"))
    parser.add_argument("--task", action="append", choices=CASES, help="a case; all by default")
    parser.add_argument("--method", action="append", help="capture: only this method's variants; the others stay")
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the records")
    parser.add_argument("--digests", type=Path, help="folder of the digests of this machine")
    parser.add_argument("--executor", default="inline", help="what carries the jobs, such as processes:2")
    arguments = parser.parse_args()
    bad = 0
    for name in arguments.task or CASES:
        started, used = time.perf_counter(), time.process_time()
        work = partial(_capture, methods=arguments.method) if arguments.verb == "capture" else _compare
        records, digests = arguments.records / f"{name}.npz", _digests(arguments.digests, name)
        lines = work(CASES[name], records, digests, arguments.executor)
        say("".join(f"  {line}\n" for line in lines))
        verdict = f"{len(lines)} differences" if arguments.verb == "compare" else "captured"
        took, used = time.perf_counter() - started, time.process_time() - used
        say(f"{name}: {verdict}, {took:.0f} s, {used:.0f} s of processor time\n")
        sys.stdout.flush()
        bad += len(lines) if arguments.verb == "compare" else 0
    return 1 if bad else 0


def _digests(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / f"{name}.json"


def _capture(
    case: Case, path: Path, digests: Path | None, executor: str, methods: Sequence[str] | None = None
) -> list[str]:
    """Write the files of a case, of all methods or of some; return what did not work."""
    labels = [label for label in labels_of(case) if methods is None or label.partition(":")[0] in methods]
    if not labels:
        return []
    made = run(case, labels, executor=executor)
    if methods is not None:
        made.keep_others(Golden.read(path))
    made.golden().write(path)
    if digests is not None:
        digests.parent.mkdir(parents=True, exist_ok=True)
        digests.write_text(json.dumps(_document(made), indent=1, sort_keys=True) + "\n")
    return [
        f"{label}: {method['status']} {method['error'] or ''}".rstrip()
        for label, method in made.document["methods"].items()
        if method["status"] in ("failed", "unavailable", "partial")
    ]


def _compare(case: Case, path: Path, digests: Path | None, executor: str) -> list[str]:
    """Return all differences."""
    golden = Golden.read(path)
    try:
        now = run(case, golden.labels, golden, executor)
    except OtherQueries as error:
        return [str(error)]
    lines = differences(golden, now.golden(), now.scores)
    if digests is not None:
        lines += [f"bytes: {line}" for line in digest_differences(json.loads(digests.read_text()), _document(now))]
    return lines


def _document(made: Capture) -> dict[str, object]:
    return {"queries": made.document["queries"], "train": made.document["train"], "methods": made.digests}


if __name__ == "__main__":
    sys.exit(main())
