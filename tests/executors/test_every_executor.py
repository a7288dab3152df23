"""Every executor writes the bytes that one process writes, whatever dies on the way, and fails only what failed.

`ray` and `slurm` need their extras.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest

from tests.executors.light_jobs import LightJob, light
from tests.executors.tiny_methods import Losses, Rows, Slow
from tests.executors.tiny_task import compute_features, settings, shard_bytes
from tests.executors.workers import needs_ray, needs_submitit

EXECUTORS = [
    pytest.param("slurm", marks=[needs_submitit, pytest.mark.slow]),
    pytest.param("ray", marks=[needs_ray, pytest.mark.slow]),
    pytest.param("processes", marks=pytest.mark.slow),
]


@pytest.fixture
def executor(request):
    return request.getfixturevalue(request.param)


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


@pytest.mark.parametrize("executor", EXECUTORS, indirect=True)
def test_two_workers_write_the_bytes_that_one_process_writes_though_one_is_killed_at_its_job(executor, tmp_path):
    methods = [Slow(), Rows(), Losses()] if executor.name == "processes" else [Slow()]  # a stage starts Slurm jobs anew
    alone, at_work = settings(tmp_path / "inline"), settings(tmp_path / "work")
    compute_features(alone, methods)
    with killing(at_work.cache) as killed:
        done = compute_features(at_work, methods, executor)
    assert len(killed) == 1 and killed != [os.getpid()] and done.progress.given_up == {}
    assert shard_bytes(at_work.cache) == shard_bytes(alone.cache)
    assert len(shard_bytes(alone.cache)) >= done.world.count("query")


@pytest.mark.parametrize("executor", EXECUTORS, indirect=True)
def test_only_the_job_that_ends_its_process_fails_whatever_was_in_flight_beside_it(executor, tmp_path):
    jobs = [LightJob(str(tmp_path / str(number)), ends=number == 1) for number in range(6)]
    receipts = list(executor.run(jobs, light))
    assert {receipt.job: receipt.state for receipt in receipts} == {
        job: "failed" if job.ends else "done" for job in jobs
    }
    assert len(receipts) == len(jobs)
