"""The executor `processes`: jobs that end their process are given up, and workers end with their parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from attrbench.contracts.computation import Unit
from attrbench.errors import UsageError
from attrbench.evaluation import execute as execution
from attrbench.evaluation.jobs import ComputeJob, TaskReference, execute
from attrbench.evaluation.plan import make_plan
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.task_run import TaskRun
from attrbench.executors.processes import WATCH_SECONDS, ProcessesExecutor, ProcessesOptions
from attrbench.plugins.registry import registry
from tests.executors.light_jobs import LightJob, light
from tests.executors.tiny_methods import NoEdit, Poison, Rows
from tests.executors.tiny_task import QUERIES, request, settings, tiny_task

ROOT = Path(__file__).parents[2]


class Notes(Silent):
    """Keeps what is reported, and the stages."""

    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


def test_a_job_that_ends_its_process_every_time_is_given_up_and_the_others_are_done(tmp_path, monkeypatch):
    attempts = 2  # each takes a new process
    monkeypatch.setattr(execution, "ATTEMPTS", attempts)
    at_work, notes = settings(tmp_path, executor="processes:workers=1,threads=1"), Notes()
    methods = [request(method) for method in (Poison(), Rows(), NoEdit())]
    results = list(TaskRun(registry(), tiny_task(), methods, at_work, notes).results())
    records = {result.record.method.name: result.record for result in results}
    assert {name: record.status for name, record in records.items()} == {
        "poison": "failed",
        "rows": "complete",
        "no-edit": "complete",
    }
    assert records["poison"].error == (
        f"edits of poison, items 1 to 1: failed {attempts} times; the last time: its process ended before it was done"
    )
    again = "edits of poison, items 1 to 1: its process ended before it was done; trying again"
    assert [line for line in notes.lines if "trying again" in line] == [again] * (attempts - 1)
    store = TaskReference.of(tiny_task(), at_work).open().store(Poison().feature, "query")
    assert [store.lacks(Unit(query, query + 1)) for query in range(QUERIES)] == [query == 1 for query in range(QUERIES)]


def test_a_worker_that_opens_another_task_computes_nothing(tmp_path):
    task = tiny_task()
    reference = TaskReference.of(task, settings(tmp_path))
    world = reference.open()
    feature = Rows().feature
    computation = next(stage.computation for stage in make_plan(world, [request(Rows())]).stages)
    job = ComputeJob(reference, computation, ((feature, "train"),), ("another",), (), Unit(0, 2))
    with pytest.raises(UsageError, match="task tiny v1 has other images or weights in a worker process"):
        execute(job)
    assert not list(tmp_path.rglob("rows-*"))


PARENT = """
import sys
from pathlib import Path
from attrbench.executors.processes import ProcessesExecutor, ProcessesOptions
from tests.executors.light_jobs import LightJob, light
if __name__ == "__main__":
    jobs = [LightJob(str(Path(sys.argv[1]) / str(number)), seconds=600) for number in range(2)]
    list(ProcessesExecutor(ProcessesOptions(workers=2, threads=1)).run(jobs, light))
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    path = os.pathsep.join([str(ROOT), *sys.path])
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=os.environ | {"PYTHONPATH": path})
    try:
        workers = wait_for(lambda: workers_of(tmp_path), 300)
        assert all(is_running(pid) for pid in workers)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not any(is_running(pid) for pid in workers), 10 * WATCH_SECONDS + 20)


def test_close_ends_the_workers(tmp_path):
    with closing(ProcessesExecutor(ProcessesOptions(workers=2, threads=1))) as executor:
        running = executor.run([LightJob(str(tmp_path / name), seconds=600 * (name > "a")) for name in "abc"], light)
        assert next(running).state == "done"
        workers = wait_for(lambda: workers_of(tmp_path / "b", 1), 300)  # the process of "a" may be at it
    wait_for(lambda: not any(is_running(pid) for pid in workers), 120)


def workers_of(folder, count=2):
    """Return the ids of the processes that are at light jobs below a folder, once there are so many."""
    found = {int(path.name.removeprefix("pid-")) for path in folder.rglob("pid-*")}
    return found if len(found) == count else None


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
