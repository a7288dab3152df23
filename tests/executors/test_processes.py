"""The executor `processes`: the same bytes as in one process, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from attrbench.evaluation.execute import ATTEMPTS
from attrbench.evaluation.progress import Silent
from attrbench.executors.processes import WATCH_SECONDS, ProcessesExecutor, ProcessesOptions
from tests.executors.tiny_methods import Ascent, Losses, NoEdit, Poison, Rows, Slow
from tests.executors.tiny_task import compute_features, settings, shard_bytes

ROOT = Path(__file__).parents[2]


class Notes(Silent):
    """Keeps what is reported, and the stages."""

    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


def processes(workers=2):
    return ProcessesExecutor(ProcessesOptions(workers=workers, threads=1))


@pytest.fixture(scope="module")
def by_one(tmp_path_factory):
    """The shards of three methods, computed in this process."""
    at_work = settings(tmp_path_factory.mktemp("inline"))
    compute_features(at_work, [Rows(), Losses(), Slow()])
    return shard_bytes(at_work.cache)


def test_two_processes_write_the_bytes_that_one_writes(tmp_path, by_one):
    at_work = settings(tmp_path)
    done = compute_features(at_work, [Rows(), Losses(), Slow()], processes())
    assert done.progress.given_up == {}
    assert shard_bytes(at_work.cache) == by_one
    assert len(by_one) > 8
    workers = {path.name for path in at_work.cache.rglob("pid-*")}
    assert len(workers) == 2 and f"pid-{os.getpid()}" not in workers


@contextmanager
def killing(cache):
    """Kill the first worker that leaves its process's id, while it is at its job."""
    killed, over = [], threading.Event()

    def watch():
        while not over.is_set() and not killed:
            for path in cache.rglob("pid-*"):
                pid = int(path.name.removeprefix("pid-"))
                time.sleep(0.1)
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                break
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield killed
    finally:
        over.set()
        watcher.join()


def test_a_worker_that_is_killed_at_its_job_changes_no_byte(tmp_path, by_one):
    at_work, notes = settings(tmp_path), Notes()
    with killing(at_work.cache) as killed:
        done = compute_features(at_work, [Rows(), Losses(), Slow()], processes(), notes)
    assert len(killed) == 1
    assert any("its process ended before it was done; trying again" in line for line in notes.lines)
    assert done.progress.given_up == {}
    assert shard_bytes(at_work.cache) == by_one


def test_a_job_that_ends_its_process_every_time_is_given_up_and_the_others_are_done(tmp_path):
    at_work, notes = settings(tmp_path), Notes()
    done = compute_features(at_work, [Poison(), Rows(), Ascent()], processes(1), notes)
    assert list(done.progress.given_up) == ["poison"]
    (line,) = str(done.progress.given_up["poison"]).splitlines()
    assert line == (
        f"edits of poison, items 1 to 1: failed {ATTEMPTS} times; the last time: its process ended before it was done"
    )
    assert sum("trying again" in line for line in notes.lines) == ATTEMPTS - 1
    for label, method in (("rows", Rows()), ("ascent", Ascent())):
        reader = done.reader(label)
        assert np.count_nonzero(reader.nonfinite()) == 0
        assert reader.query()[method.feature] is not None
    store = done.world.store(Poison().feature, "query")
    assert store.state((1, 2)) == "missing"


def test_jobs_that_fly_beside_a_poisonous_one_are_not_given_up_for_it(tmp_path):
    done = compute_features(settings(tmp_path), [Poison(), NoEdit()], processes(2))
    assert list(done.progress.given_up) == ["poison"]
    assert "edits of poison, items 1 to 1" in str(done.progress.given_up["poison"])


PARENT = """
import os, sys, time
from pathlib import Path
from tests.executors.test_processes import processes
from tests.executors.tiny_methods import Slow
from tests.executors.tiny_task import compute_features, settings
if __name__ == "__main__":
    compute_features(settings(Path(sys.argv[1])), [Slow()], processes())
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    path = os.pathsep.join([str(ROOT), *sys.path])
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=os.environ | {"PYTHONPATH": path})
    try:
        workers = wait_for(lambda: [int(p.name.removeprefix("pid-")) for p in tmp_path.rglob("pid-*")], 60)
        assert all(is_running(pid) for pid in workers)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not any(is_running(pid) for pid in workers), 10 * WATCH_SECONDS + 10)


def test_close_ends_the_workers(tmp_path):
    with closing(processes()) as executor:
        compute_features(settings(tmp_path), [Slow()], executor)
    workers = [int(path.name.removeprefix("pid-")) for path in tmp_path.rglob("pid-*")]
    assert len(workers) == 2
    wait_for(lambda: not any(is_running(pid) for pid in workers), 20)


def wait_for(condition, seconds):
    """Return what a condition gives once it holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"did not come true within {seconds} s")


def is_running(pid):
    """Whether a process is there and no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        pytest.skip("needs /proc")
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")
