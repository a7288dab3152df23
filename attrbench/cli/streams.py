"""Standard output and error of the command line, which may be closed, full, a pipe nobody reads, or ASCII only."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from attrbench.errors import AttrbenchError
from attrbench.text import plain


def prepare_streams() -> None:
    """Let messages vanish where standard error is closed, and characters that an encoding lacks be written as codes.

    Raises:
        AttrbenchError: where standard output is closed; the next file that is opened would take its place.
    """
    closed = sys.stdout is None
    if closed:
        sys.stdout = _null()
    if sys.stderr is None:
        sys.stderr = _null()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if closed:
        raise AttrbenchError("standard output is closed: send it to a file, or to /dev/null")


def complain(line: str) -> None:
    """Write a line to standard error, without terminal escapes; where that can't be written to, it is lost."""
    prefix = "" if line.startswith(" ") else "attrbench: "
    try:
        sys.stderr.write(f"{prefix}{plain(' '.join(line.splitlines()))}\n")
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)


def output_fault(error: OSError) -> str | None:
    """Return why standard output can't be written to, if that is what an error was about; else None.

    The error itself doesn't say which file it was about, so an empty line is written to see.
    """
    if error.filename is not None:
        return None
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except OSError as again:
        return again.strerror
    return None


def discard(stream: TextIO) -> None:
    """Send to the null device what a stream still holds, so that the exit of Python does not fail on it."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _null() -> TextIO:
    return Path(os.devnull).open("w")
