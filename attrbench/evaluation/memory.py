"""Measure peak memory (host and GPU), and make glibc keep freed memory, so that small networks run faster."""

from __future__ import annotations

import ctypes
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""


SMALL = 2**30
"""Bytes of weights up to which freed memory is kept."""


def keep_freed_memory(module: torch.nn.Module) -> None:
    """Make glibc reuse freed tensor memory of up to 1 GB, if there is a glibc and the network is small.

    It would give each back to the system and fault in every page anew for the next batch, which on a small network
    costs as much as the batch itself. On a large one it costs next to nothing, and what is kept would raise the peak.
    """
    if sum(parameter.nbytes for parameter in module.parameters()) > SMALL:
        return
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def reset_peaks(device: torch.device) -> None:
    """Reset the peak memory counters, where possible: the host's on Linux, the device's on CUDA."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what is kept but free is nobody's peak
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


@dataclass(frozen=True)
class Peaks:
    """Peak memory in bytes: of the host process, and of torch on a CUDA device (None on the CPU)."""

    resident: int
    device: int | None

    @staticmethod
    def now(device: torch.device) -> Peaks:
        """Return the present peak memory of the process and, on CUDA, of the device."""
        cuda = device.type == "cuda"
        return Peaks(_peak_resident(), int(torch.cuda.max_memory_allocated(device)) if cuda else None)

    def or_larger(self, other: Peaks) -> Peaks:
        """Return the larger of two peaks, for host memory and for device memory separately."""
        return Peaks(max(self.resident, other.resident), max(self.device or 0, other.device or 0) or None)


def _peak_resident() -> int:
    """Return the peak resident memory of this process in bytes.

    It is that since the last reset on Linux, that since the process began on Windows and macOS.
    """
    with suppress(OSError):
        line = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if line is not None:
            return int(line[1]) * 1024
    with suppress(ImportError):
        import resource  # there is none on Windows, and psutil knows no peak on macOS

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))
