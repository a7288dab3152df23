"""Jobs that need neither a task nor a network."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from attrbench.contracts.job import Receipt


@dataclass(frozen=True)
class LightJob:
    """Leaves its process's id in a folder.

    Attributes:
        folder: where.
        seconds: how long it takes.
        ends: whether its process ends before it is done.
    """

    folder: str
    seconds: float = 0.0
    ends: bool = False

    @property
    def title(self):
        return self.folder


def light(job: LightJob) -> Receipt:
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"pid-{os.getpid()}").touch()
    time.sleep(job.seconds)
    if job.ends:
        os._exit(1)
    return Receipt(job)
