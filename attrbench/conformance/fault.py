"""Formatting of exceptions that a checked method raises as one line, for findings of the checks."""

from __future__ import annotations

import traceback
from pathlib import Path

from attrbench.errors import AttrbenchError


def one_line(error: BaseException) -> str:
    """Return an exception as one line: type, message and location, or only the message for an AttrbenchError."""
    text = " ".join(str(error).split())
    if isinstance(error, AttrbenchError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text[:200]}{where}"
