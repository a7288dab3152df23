"""Leases, by which machines whose file locks do not reach each other share a computation."""

import os
import subprocess
import sys
import time

import pytest

from attrbench.contracts.options import Spec
from attrbench.evaluation.jobs import TaskReference
from attrbench.evaluation.requests import TaskRequest
from attrbench.executors.inline import InlineExecutor
from attrbench.store import locks
from attrbench.store.cache_index import index_cache
from attrbench.store.garbage import find_garbage
from attrbench.store.locks import Claims, is_free, remove_free
from tests.executors.tiny_task import settings
from tests.executors.workers import Elsewhere, of_one_machine

HOLDER = """
import sys
from contextlib import contextmanager
from pathlib import Path
from attrbench.store import locks
from attrbench.store.cache_index import index_cache
from attrbench.store.garbage import find_garbage

@contextmanager
def of_this_machine(*_):
    yield True

locks.lock = of_this_machine
with locks.Claims(Path(sys.argv[1]), leases=True).claim(64, wait=False) as ours:
    print(ours, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _locks_within_a_machine_alone(monkeypatch):
    monkeypatch.setattr(locks, "lock", of_one_machine)


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "claims"
    folder.mkdir()
    return folder / ("a" * 20)


@pytest.fixture
def other(path):
    """Another process, whose locks this one does not see, and which leases part 64."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.communicate()


def claimed(path, part, wait=False, leases=True):
    with Claims(path, leases).claim(part, wait) as ours:
        return ours


def test_a_part_that_another_machine_computes_is_not_ours_and_all_others_are(path, other):
    assert not claimed(path, 64) and not claimed(path, 64)
    assert claimed(path, 0) and claimed(path.with_name("b" * 20), 64)
    assert claimed(path, 64, leases=False)  # locks alone do not tell


def test_a_part_is_ours_when_the_other_has_let_go(path, other):
    other.communicate("")
    assert claimed(path, 64, wait=True)
    assert not list(path.parent.iterdir())


def test_a_lease_whose_holder_gives_no_sign_is_over(path, monkeypatch):
    """The holder is of another machine, so that nobody can see whether its process lives."""
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.5)
    with Claims(path, leases=True).claim(64, wait=False):
        (held,) = path.parent.iterdir()
        content = held.read_text()
    lost = content.replace(os.uname().nodename, "node-that-burned")
    assert lost != content
    held.write_text(lost)
    began = time.monotonic()
    assert not claimed(path, 64)
    assert claimed(path, 64, wait=True)
    assert time.monotonic() - began >= 0.5


def test_a_holder_that_takes_long_keeps_its_lease(path, monkeypatch):
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.6)
    with Claims(path, leases=True).claim(64, wait=False):
        (held,) = path.parent.iterdir()
        before = held.stat().st_mtime
        time.sleep(1.5)
        assert held.stat().st_mtime - before > 0.6


def test_the_file_of_a_lease_goes_when_it_was_not_touched_for_long(path, other):
    (held,) = path.parent.iterdir()
    assert not is_free(held)
    with pytest.raises(OSError, match="a run holds it"):
        remove_free(held)
    other.kill()
    other.wait()
    old = time.time() - 3 * locks.LEASE_SECONDS
    os.utime(held, (old, old))
    assert is_free(held)
    remove_free(held)
    assert not held.exists()


def test_a_lease_that_was_let_go_since_the_cache_was_scanned_is_no_garbage(tmp_path):
    folder = tmp_path / "claims"
    folder.mkdir()
    lease = folder / f"{'a' * 20}-64.lease"
    lease.write_text("held")
    index = index_cache(tmp_path)
    assert [file.path for file in index.locks] == [lease]
    lease.unlink()
    garbage = find_garbage(index, engine=2)
    assert not garbage.ready and not garbage.waiting


def test_jobs_are_leased_where_an_executor_has_other_machines(tmp_path):
    class WithDevice(Elsewhere):
        device = "cuda"

    reference = TaskReference.of(TaskRequest(Spec("tiny"), None), settings(tmp_path))
    assert not reference.on(InlineExecutor(InlineExecutor.Options())).leases
    there = reference.on(WithDevice(InlineExecutor.Options()))
    assert there.leases and there.settings.device == "cuda" and there.key == reference.key
