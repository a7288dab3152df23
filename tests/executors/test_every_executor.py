"""Every executor writes the bytes that one process writes, whatever dies on the way, and fails only what failed.

`ray` and `slurm` need their extras.
"""

from __future__ import annotations

import os

import pytest

from tests.executors.light_jobs import LightJob, light
from tests.executors.tiny_methods import Losses, Rows, Slow
from tests.executors.tiny_task import compute_features, settings, shard_bytes
from tests.executors.workers import EXECUTORS, killing


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
