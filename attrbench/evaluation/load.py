"""Measure how busy other processes keep the machine while a run lasts, since that makes its times too long."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil


class OtherLoad:
    """A measure of how many cores other processes kept busy since it was made, on average."""

    def __init__(self) -> None:
        self._started = _now()

    def cores(self) -> float | None:
        """Return the mean number of busy cores since the beginning, without this process and those it started.

        None where too little time has passed for the system's clock to tell.
        """
        wall, busy, own = (now - then for now, then in zip(_now(), self._started, strict=True))
        return round(max(0.0, busy - own) / wall, 2) if wall > 0.5 else None


def _now() -> tuple[float, float, float]:
    """Return the time, and the processor seconds of the whole machine and of this process with its children."""
    machine = psutil.cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    guest = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)  # Linux counts them as user as well
    process = psutil.Process()
    times = process.cpu_times()
    own = times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    for child in process.children(recursive=True):
        with suppress(psutil.Error):
            own += sum(child.cpu_times()[:2])
    return time.perf_counter(), sum(machine) - idle - guest, own
