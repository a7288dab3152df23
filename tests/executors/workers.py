"""The executors that tests run jobs with, marks for those whose libraries are optional, and the killing of a worker."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest

from attrbench.executors.inline import InlineExecutor

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra attrbench[ray]")
needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="needs the extra attrbench[slurm]"
)
EXECUTORS = [
    pytest.param("slurm", marks=[needs_submitit, pytest.mark.slow]),
    pytest.param("ray", marks=[needs_ray, pytest.mark.slow]),
    pytest.param("processes", marks=pytest.mark.slow),
]


class Elsewhere(InlineExecutor):
    """One job after the other in this process, as on one of several machines."""

    name = "elsewhere"
    elsewhere = True


@contextmanager
def of_one_machine(*_):
    """Stand for `locks.lock` where another machine has it: everybody gets every lock."""
    yield True


@contextmanager
def killing(cache):
    """Kill the second worker that leaves its process's id, while it is at its job; yield a list that gets its id."""
    killed, over = [], threading.Event()

    def watch():
        seen = []
        while not over.is_set() and not killed:
            seen += sorted({int(path.name.removeprefix("pid-")) for path in cache.rglob("pid-*")} - set(seen))
            if len(seen) > 1:
                time.sleep(0.1)
                os.kill(seen[-1], signal.SIGKILL)
                killed.append(seen[-1])
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield killed
    finally:
        over.set()
        watcher.join()
