"""Trials in several processes: each does its share, and the first one tells of all."""

from __future__ import annotations

import json
import os
import random
import selectors
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.campaign.bench import Bench

Trial = Callable[[Bench, int, random.Random], "str | None"]
"""Does one trial, from its number and its chance; returns why the property did not hold, or None."""


@dataclass(frozen=True)
class Part:
    """One part of the campaign.

    Attributes:
        name, what: what it is called, and what is tried.
        trials: how many by default.
        trial: does one.
        commands: the scenarios whose undisturbed runs its trials begin with.
    """

    name: str
    trials: int
    what: str
    trial: Trial
    commands: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """One trial: its number, and why the property did not hold; None if it did."""

    trial: int
    wrong: str | None


@dataclass(frozen=True)
class Row:
    """One row of the table: how many trials of a part were made, held and failed, and the seconds."""

    part: str
    tried: int
    held: int
    failed: int
    seconds: float


def one(bench: Bench, part: Part, seed: int, trial: int) -> Outcome:
    """Do one trial."""
    try:
        return Outcome(trial, part.trial(bench, trial, random.Random(f"{seed} {part.name} {trial}")))
    except Exception as error:  # a fault of the campaign, or a folder that the trial left unreadable
        return Outcome(trial, f"{type(error).__name__}: {error}")


def outcomes(bench: Bench, part: Part, seed: int, trials: Sequence[int], jobs: int) -> Iterator[Outcome]:
    """Yield the outcomes of trials as they come, from so many forked processes."""
    readers = []
    sys.stdout.flush()
    for job in range(jobs):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            for trial in trials[job::jobs]:
                os.write(writer, (json.dumps(one(bench, part, seed, trial)) + "\n").encode())
            os._exit(0)
        os.close(writer)
        readers.append(reader)
    yield from _read(readers)
    for _ in range(jobs):
        os.wait()


def _read(readers: list[int]) -> Iterator[Outcome]:
    rest = dict.fromkeys(readers, b"")
    with selectors.DefaultSelector() as selector:
        for reader in readers:
            selector.register(reader, selectors.EVENT_READ)
        while rest:
            for key, _ in selector.select():
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    del rest[key.fd]
                    continue
                *lines, rest[key.fd] = (rest[key.fd] + data).split(b"\n")
                yield from (Outcome(*json.loads(line)) for line in lines)


def run_part(
    bench: Bench, part: Part, seed: int, trials: Sequence[int], jobs: int, tell: Callable[[Outcome], None]
) -> Row:
    """Do the trials of a part, tell of each, and return its row."""
    if len(trials) > 1:  # else the trial makes the one that it needs
        for name in part.commands:
            bench.undisturbed(name)
    began, failed, tried = time.monotonic(), 0, 0
    for outcome in outcomes(bench, part, seed, trials, jobs):
        tell(outcome)
        tried += 1
        failed += outcome.wrong is not None
    lost = len(trials) - tried  # a process died with them
    return Row(part.name, len(trials), tried - failed, failed + lost, round(time.monotonic() - began, 1))
