"""Formatting of exceptions that a checked method raises as one line, for findings of the checks."""

from __future__ import annotations

from attrbench.errors import AttrbenchError, raised_at


def one_line(error: BaseException) -> str:
    """Return an exception as one line: type, message and location, or only the message for an AttrbenchError."""
    text = " ".join(str(error).split())
    if isinstance(error, AttrbenchError):
        return text
    place = raised_at(error)
    return f"{type(error).__name__}: {text[:200]}{f' ({place})' if place else ''}"
