"""Signals that stop a program, held back while something is at work that must not be cut in two."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from attrbench.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 10.0
"""Seconds after a signal in which further ones are ignored: cleaning up goes on."""

_last = -PATIENCE


def obey_interruptions() -> None:
    """Have SIGINT and SIGTERM raise `Interrupted` in the main thread from now on."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)


def ignore_interruptions() -> None:
    """Ignore the signals from now on: the process is about to end, and its exit code shall be its own."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Hold back SIGINT and SIGTERM in the `with` block, and raise them again after it; a second one is not held back.

    The value is a function that says whether one has come. Signals that are ignored stay ignored, and in a thread other
    than the main one, which gets no signals, nothing changes.
    """
    came: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hold(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            restore()
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, hold)
    try:
        yield lambda: bool(came)
    finally:
        restore()
    if came:
        signal.raise_signal(came[0])


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `Interrupted`; signals that follow within `PATIENCE` seconds do nothing.

    Shells, `make` and batch systems often send a second one, which would end the process amid its cleaning up. One that
    comes later is obeyed, in case the first was lost.
    """
    global _last
    now = time.monotonic()
    if now - _last >= PATIENCE:
        _last = now
        raise Interrupted
