"""File faults: one operation after another gives an error, finds the disk full, or is the last before a kill."""

from __future__ import annotations

import errno
import random

from tests.campaign.bench import Bench
from tests.campaign.checks import ends_as_undisturbed, lost_files, sealed_files
from tests.campaign.children import KILLED, Done
from tests.campaign.scenarios import SCENARIOS
from tests.faults.injection import KILL, NEED_ROOM, Fault

NAMES = {KILL: "a kill", errno.EIO: "EIO", errno.ENOSPC: "ENOSPC", errno.EROFS: "EROFS", errno.EACCES: "EACCES"}


def fault_of(kind: str, number: int, chance: random.Random) -> Fault:
    """Return a fault that an operation of this kind may meet."""
    if kind not in NEED_ROOM:
        return Fault(
            number, chance.choice((errno.EIO, errno.EIO, errno.EACCES, KILL) if kind == "open" else (errno.EIO, KILL))
        )
    code = chance.choice((errno.EIO, errno.ENOSPC, errno.ENOSPC, errno.EROFS, KILL))
    return Fault(number, code, lasting=code in (errno.ENOSPC, errno.EROFS))


def is_told(done: Done) -> bool:
    """Return whether a command that ended well says that a file could not be read, or what it left out."""
    return "cannot be read" in done.out + done.err or "left out" in done.err


def file_fault(bench: Bench, trial: int, chance: random.Random) -> str | None:
    """Let one file operation go wrong: the trials walk through all of every command, some more than once."""
    places = [(name, number) for name in SCENARIOS for number in range(len(bench.undisturbed(name).operations))]
    random.Random(0).shuffle(places)
    name, number = places[trial % len(places)]
    scenario, whole = SCENARIOS[name], bench.undisturbed(name)
    kind, path = whole.operations[number]
    fault = fault_of(kind, number, chance)
    with bench.copied(whole.start, "files", trial) as root:
        before = sealed_files(root / "work") if scenario.keeps else {}
        done = bench.run(scenario, root, fault)
        wrong = None
        if done.code != (KILLED if fault.code == KILL else 0):
            wrong = done.fault(0, 1)
        if (
            wrong is None
            and done.code == 0
            and not is_told(done)
            and bench.results(scenario, root, done) != whole.results
        ):
            wrong = "exit code 0, but other results than an undisturbed run"
        if wrong is None and (lost := lost_files(before)):
            wrong = f"{lost[0].name} is lost, which was finished"
        if wrong is None and done.code == 1 and kind != "remove":
            left = next((root / "work").rglob("*.part-*"), None)
            wrong = left and f"{left.name} is left"
        wrong = wrong or ends_as_undisturbed(bench, scenario, root)
        place = path.replace(str(bench.folder / "noted" / name / "work"), "WORK")
        return wrong and f"{name}, {NAMES[fault.code]} at operation {number}, {kind} {place}: {wrong}"
