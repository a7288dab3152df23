"""Choose the batch size of backward passes: estimate it from free memory, halve it when memory runs out."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from attrbench.contracts.computation import World
from attrbench.errors import AttrbenchError
from attrbench.store.artifacts import Artifact
from attrbench.store.fingerprint import fingerprint

log = logging.getLogger(__name__)

LARGEST = {"cpu": 640, "cuda": 1024}
SHARE = 0.5
"""Share of the free memory that a batch may take, by estimate."""
ENOUGH = {"cpu": 1.5e9}
"""Estimated bytes beyond which a larger batch is no faster: all arithmetic units are busy, and caches overflow."""


class BatchSize:
    """A batch size (number of noisy samples) that is estimated once and then only shrinks.

    Args:
        fixed: the batch size that the user gave, or None to estimate one.
        device: torch device on which batches run.
        file: JSON file in which a halved batch size is remembered for the next process.
    """

    def __init__(self, fixed: int | None, device: torch.device, file: Path | None = None) -> None:
        self._size = fixed
        self._device = device
        self._file = file

    def get(self, bytes_per_sample: Callable[[], int]) -> int:
        """Return the current batch size, estimated from free memory and `bytes_per_sample` unless the user fixed it."""
        if self._size is None:
            most = min(SHARE * free_memory(self._device), ENOUGH.get(self._device.type, math.inf))
            fitting = int(most) // max(1, bytes_per_sample())
            self._size = max(1, min(LARGEST.get(self._device.type, LARGEST["cpu"]), fitting, self._remembered()))
        return self._size

    def shrink(self) -> None:
        """Halve the batch size after memory ran out, and save it to the file for the next process.

        Raises:
            AttrbenchError: where a single noisy sample does not fit into memory.
        """
        assert self._size is not None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if self._size == 1:
            raise AttrbenchError(
                f"the gradients of one item at one timestep do not fit into the memory of {self._device}"
                f" ({free_memory(self._device) / 1e9:.1f} GB free): use a larger device, or gradient checkpointing"
            )
        self._size //= 2
        log.warning("out of memory: going on with %d pairs of item and timestep a batch", self._size)
        if self._file is not None:
            try:
                self._artifact(self._file).write_bytes(json.dumps({"batch_size": self._size}).encode())
            except AttrbenchError:  # only a convenience for the next run
                log.debug("can't remember the batch size in %s", self._file)

    def _remembered(self) -> int:
        if self._file is None:
            return 2**31
        kept = self._artifact(self._file)
        if kept.whole() is None:
            kept.report_damage("finding the size again")
            return 2**31
        return int(json.loads(self._file.read_bytes())["batch_size"])

    def _artifact(self, file: Path) -> Artifact:
        return Artifact(file, "batch size", f"the size that fits into the memory of {self._device}")


def batch_size_file(world: World, identity: object) -> Path:
    """Return the path of the file that remembers a computation's halved batch size on the model's device."""
    key = fingerprint([identity, world.engine.backend, str(world.opened.denoiser.device)])
    return world.cache / "batch-sizes" / f"{key[:20]}.json"


def free_memory(device: torch.device) -> int:
    """Return the number of free bytes of memory on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of torch or Python means that memory ran out."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    signs = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
