"""Format exceptions of plugins in one line."""

from __future__ import annotations

import traceback
from pathlib import Path

from attrbench.errors import AttrbenchError


def one_line(error: BaseException) -> str:
    """Return type, message and location of an exception; only the message of an AttrbenchError."""
    text = " ".join(str(error).split())
    if isinstance(error, AttrbenchError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text[:200]}{where}"
