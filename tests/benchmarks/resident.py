"""The process's own peak resident memory, which `ru_maxrss` is not: it starts from the parent's."""

from __future__ import annotations

import re
from pathlib import Path


def peak_resident() -> int:
    """Bytes: the high-water mark of this process (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def reset_peak() -> None:
    """Starts the high-water mark anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
