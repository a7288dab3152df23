"""Damaged files: some bytes of one file below the cache or the results folder are not what was written."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from attrbench.store.item_store import PREFIX
from tests.campaign.bench import Bench
from tests.campaign.checks import ends_as_undisturbed, verify
from tests.campaign.scenarios import SCENARIOS
from tests.shard_files import leave_no_trace

DAMAGED = (
    "run",
    "run again",
    "run with factors",
    "run on a table",
    "tune",
    "attribute",
    "train",
    "ground-truth build",
    "run with ground truth",
)
"""The commands in whose folders files are damaged, of those that leave what they read again."""


def _flip(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def _replace(data: bytes, chance: random.Random) -> bytes:
    first = chance.randrange(len(data))
    last = min(len(data), first + chance.randint(1, 64))
    return data[:first] + bytes(byte ^ chance.randrange(1, 256) for byte in data[first:last]) + data[last:]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a flipped bit": _flip,
    "replaced bytes": _replace,
    "the end cut off": lambda data, chance: data[: chance.randrange(len(data))],
    "emptied": lambda data, chance: b"",
    "random bytes": lambda data, chance: chance.randbytes(chance.randint(1, 300)),
    "more at the end": lambda data, chance: data + chance.randbytes(chance.randint(1, 20)),
}


def kinds_of_files(work: Path, start: Path) -> dict[tuple[str, ...], list[Path]]:
    """Return the files with content of a finished command by their kind: folder of the cache, and suffix.

    Those of the results folder that were there at its start are left out: they are another command's.
    """
    kinds: dict[tuple[str, ...], list[Path]] = {}
    for path in sorted(work.rglob("*")):
        folder, *below = path.relative_to(work).parts
        if (
            path.is_file()
            and path.stat().st_size
            and not (folder == "out" and (start / folder / Path(*below)).exists())
        ):
            kind = (folder, below[0] if folder == "cache" else "", "".join(path.suffixes[-2:]))
            kinds.setdefault(kind, []).append(path)
    return kinds


def damage(bench: Bench, trial: int, chance: random.Random) -> str | None:
    """Damage one file of a finished command, and run the command again: the file is found, or changes nothing."""
    scenario = SCENARIOS[chance.choice(DAMAGED)]
    undisturbed = bench.undisturbed(scenario.name)
    with bench.copied(undisturbed.end, "damage", trial) as root:
        work, start = root / "work", undisturbed.start / "work"
        kinds = kinds_of_files(work, start)
        victim = chance.choice(kinds[chance.choice(sorted(kinds))])
        how, name = chance.choice(sorted(DAMAGES)), victim.relative_to(work).as_posix()
        damaged = DAMAGES[how](victim.read_bytes(), chance)
        victim.write_bytes(damaged)
        if victim.name.startswith(PREFIX) and victim.suffix == ".safetensors" and chance.random() < 0.5:
            leave_no_trace(victim)
            how = f"{how} without a trace"
        wrong = None
        if name.startswith("cache/"):
            wrong = _not_found(work, victim)
            _forget_records(work, start)
        if scenario.refuses and scenario.refuses in bench.run(scenario, root).err:
            return None
        wrong = wrong or ends_as_undisturbed(
            bench, scenario, root, whole=lambda: not victim.exists() or victim.read_bytes() != damaged
        )  # a file that is as it was left was not read
        return wrong and f"{scenario.name}, {how} in {name}: {wrong}"


def _not_found(work: Path, victim: Path) -> str | None:
    found = verify(work)
    named = [line.partition(": ")[0] for line in found.out.splitlines()[:-1]]
    if found.code == 1 and any(victim.is_relative_to(path) for path in named):
        return None
    return f"cache verify does not name it: {found.out.strip()}"


def _forget_records(work: Path, start: Path) -> None:
    """Leave the results folder as it was before the command: a record would answer, and the cache not be read."""
    shutil.rmtree(work / "out", ignore_errors=True)
    if (start / "out").exists():
        shutil.copytree(start / "out", work / "out")
