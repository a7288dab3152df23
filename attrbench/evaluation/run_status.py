"""The status of runs in progress: a small file below the cache that `attrbench status` reads from another terminal.

It is named like a part file, with the id of its process, so that the cache's own rules for those hold: it belongs to
nobody's results, and `cache gc` removes that of a process that has ended.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from attrbench.contracts.ground_truth import RETRAINED
from attrbench.evaluation.progress import Advance, Reporter
from attrbench.files import part_path, write_atomically
from attrbench.reports.quantities import human_seconds
from attrbench.store.locks import LOCK

FOLDER = "running"
NAME = "status.json"
CLAIMS = "claims"
EVERY = 1.0
"""Seconds between two writings of the file, at least."""
SHOWN = 8
"""Units at work that a line lists at most."""
_UNIT = re.compile(rf"[0-9a-f]{{20}}(?:-(\d+)|\.safetensors){re.escape(LOCK)}")


class StageStatus(BaseModel):
    """The progress of one stage of a run: steps done, out of how many, and since when.

    Attributes:
        name: of the stage.
        done, total: steps, which are jobs or methods.
        began: seconds since 1970.
    """

    model_config = ConfigDict(extra="ignore")

    name: str
    done: int
    total: int
    began: float


class RunStatus(BaseModel):
    """The status that a run in progress keeps in a file: what runs, where, and its stage.

    Attributes:
        host, process: where it runs.
        task, methods, executor: what runs, as on the command line; for methods the command `ground-truth build`.
        began, told: seconds since 1970: of the run, and of the last word from it.
        stage: what it is at; None between stages.
    """

    model_config = ConfigDict(extra="ignore")

    host: str
    process: int
    task: str
    methods: list[str]
    executor: str
    began: float
    told: float
    stage: StageStatus | None = None

    @property
    def has_ended(self) -> bool:
        """Return whether its process is gone, where that can be known: on this machine."""
        return self.host == socket.gethostname() and not psutil.pid_exists(self.process)


@dataclass(frozen=True)
class UnitAtWork:
    """A unit of work that some process is at: a stretch of items of a pass, or a ground truth's training of a model.

    Attributes:
        first: the first of the items; None for a training.
        seconds: since it was begun.
    """

    first: int | None
    seconds: float

    @property
    def text(self) -> str:
        """Return what a process is at, and for how long, as text for the terminal."""
        return f"{'a training' if self.first is None else f'items from {self.first}'} ({human_seconds(self.seconds)})"


class StatusReporter:
    """A reporter that also keeps the status of a run in a file, for `attrbench status`, while `kept` is open.

    A file that can't be written is no reason to stop a run.

    Args:
        inner: shows the stages.
        task, methods, executor: what runs, as on the command line.
    """

    def __init__(self, inner: Reporter, task: str, methods: list[str], executor: str) -> None:
        now = time.time()
        self._inner = inner
        self._path: Path | None = None
        self._written = 0.0
        self._status = RunStatus(
            host=socket.gethostname(),
            process=os.getpid(),
            task=task,
            methods=methods,
            executor=executor,
            began=now,
            told=now,
        )

    @contextmanager
    def kept(self, cache: Path) -> Iterator[None]:
        """Keep the file of the status below a cache folder while the `with` block runs."""
        self._path = part_path(cache / FOLDER / NAME)
        self._write(always=True)
        try:
            yield
        finally:
            with suppress(OSError):
                self._path.unlink()
            self._path = None

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """Show a stage by the inner reporter, and keep how far it is."""
        self._status.stage = stage = StageStatus(name=name, done=0, total=total, began=time.time())
        self._write(always=True)
        with self._inner.stage(name, total) as advance:

            def step() -> None:
                stage.done += 1
                self._write()
                advance()

            yield step
        self._status.stage = None

    def note(self, line: str) -> None:
        """Pass one line of text to the inner reporter, which shows it."""
        self._inner.note(line)

    def _write(self, always: bool = False) -> None:
        if self._path is None or (not always and time.monotonic() - self._written < EVERY):
            return
        self._written = time.monotonic()
        self._status.told = time.time()
        with suppress(OSError):
            write_atomically(self._path, self._status.model_dump_json().encode(), sync=False)


def running(cache: Path) -> list[RunStatus]:
    """Return the status of each run on a cache folder that says that it is in progress, the oldest first."""
    found = []
    for path in (cache / FOLDER).glob(f"{NAME}.part-*"):
        with suppress(OSError, ValidationError, ValueError):
            found.append(RunStatus.model_validate_json(path.read_bytes()))
    return sorted(found, key=lambda status: status.began)


def units_at_work(cache: Path) -> list[UnitAtWork]:
    """Return the units that processes hold a lock on at the moment, on any machine, the longest first."""
    found, now = [], time.time()
    for path in chain.from_iterable((cache / folder).glob(f"*{LOCK}") for folder in (CLAIMS, RETRAINED)):
        name = _UNIT.fullmatch(path.name)
        with suppress(OSError):
            if name is not None:
                first = None if name[1] is None else int(name[1])
                found.append(UnitAtWork(first, max(0.0, now - path.stat().st_mtime)))
    return sorted(found, key=lambda unit: -unit.seconds)


def units_line(units: Sequence[UnitAtWork]) -> str:
    """Return a line that says what workers are at, and for how long; empty for none."""
    if not units:
        return ""
    told = ", ".join(unit.text for unit in units[:SHOWN])
    more = f" and {len(units) - SHOWN} more" * (len(units) > SHOWN)
    return f"at work: {told}{more}"
