"""The command line in a forked child, of a parent that has imported everything already."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from attrbench.cli.app import main
from tests.faults.injection import Fault, watching

PATIENCE = 180.0
"""Seconds after which a command counts as hanging."""
UNEXPECTED = "(run again with --debug"
COMPLAINT = "attrbench: error:"
KILLED = -signal.SIGKILL
RAISED, HUNG = 99, -1000


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code (negative: the signal), and what it wrote."""

    code: int
    out: str
    err: str

    def fault(self, *codes: int) -> str | None:
        """Return why this is no answer that a user can do something with; None if it is.

        Args:
            codes: exit codes that are fine; 1 and 2 go with exactly one line, or with results that say `failed`.
        """
        if self.code not in codes:
            return f"exit code {NAMES.get(self.code, self.code)}: {self._last()}"
        for sign in ("Traceback (most recent call last)", UNEXPECTED):
            if sign in self.err or sign in self.out:
                return f"an internal error: {self._last()}"
        complaints = sum(line.startswith(COMPLAINT) for line in self.err.splitlines())
        usage = self.code == 2 and "Usage:" in self.err
        reported = self.code == 1 and (": failed: " in self.out or "found in" in self.out or '"faults": [' in self.out)
        if self.code in (1, 2) and complaints != 1 and not usage and not reported:
            return f"{complaints} lines say what is wrong: {self._last()}"
        return None

    def _last(self) -> str:
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1][:300] if lines else "nothing was said"


NAMES = {HUNG: "none, it hangs", RAISED: "none, an exception got out"}


def run_here(arguments: list[str]) -> Done:
    """Run a command in this process, and return how it ended."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["attrbench", *arguments]
    code = RAISED
    try:
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main()
            except SystemExit as stop:
                code = int(stop.code or 0)
            except Exception:
                traceback.print_exc()
    finally:
        sys.argv = before
    return Done(code, out.getvalue(), err.getvalue())


class Child:
    """A forked process that runs one function, whose standard output and error go to files.

    Args:
        work: what it does; the exit code is that of its SystemExit, else 0.
        said: folder of the two files.
    """

    def __init__(self, work: Callable[[], object], said: Path) -> None:
        self._files = [said / "stdout", said / "stderr"]
        said.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = RAISED
            try:
                for number, path in enumerate(self._files, start=1):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
                work()
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def ended(self, seconds: float) -> int | None:
        """Wait for its end, so many seconds at most, and return its exit code."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.001)

    def kill(self) -> int:
        """Send SIGKILL, and return the exit code; it may have ended before."""
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def said(self, code: int | None) -> Done:
        """Return what it wrote, with this exit code."""
        out, err = (path.read_text(errors="replace") if path.exists() else "" for path in self._files)
        return Done(HUNG if code is None else code, out, err)


def command(arguments: list[str], root: Path, fault: Fault | None = None, note: Path | None = None) -> Child:
    """Start a command in a child.

    Args:
        arguments: those of the command line.
        root: what it says goes to files below `said`; it works below `work`.
        fault: what happens to one of its file operations there.
        note: where to write the modules that it imported, and its file operations.
    """

    def work() -> None:
        before, sys.argv = set(sys.modules), ["attrbench", *arguments]
        if fault is None and note is None:
            main()
        with watching(root / "work", fault) as operations:
            try:
                main()
            finally:
                if note is not None:
                    modules = [name for name in sys.modules if name not in before]
                    note.write_text(json.dumps({"modules": modules, "operations": operations.seen}))

    return Child(work, root / "said")


def finished(child: Child) -> Done:
    """Return how a child ended; one that hangs is killed."""
    code = child.ended(PATIENCE)
    if code is None:
        child.kill()
    return child.said(code)


class TimeOut(BaseException):
    """Raised where a trial in this process takes too long."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise `TimeOut` if the `with` block takes longer."""

    def late(number: int, frame: object) -> None:
        raise TimeOut

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def limited_run(arguments: list[str], seconds: int = 60) -> Done:
    """Run a command in this process, so many seconds at most."""
    try:
        with limited(seconds):
            return run_here(arguments)
    except TimeOut:
        return Done(HUNG, "", "")
