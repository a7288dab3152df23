"""Bytes and seconds as text with a fitting unit; imports nothing heavy, so that every command may use it."""

from __future__ import annotations

import math


def human_bytes(count: float) -> str:
    """Return a number of bytes as text with a unit and three digits, such as `327 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.3g} TB"


def human_seconds(seconds: float) -> str:
    """Return a duration as text with a fitting unit, such as `31 ms`; empty for NaN and infinity."""
    if not math.isfinite(seconds):
        return ""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds / 3600:.2g} h"
