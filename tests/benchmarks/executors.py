"""Wall time of whole runs by each executor with two workers of one core each, against one process with both cores.

Each command has a cache of its own. Then the same once more with one thread everywhere, and a worker is killed in the
middle: all files of the cache must have the bytes that one process with one thread gives them (two round otherwise).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.benchmarks.timing import Figure

TASKS = ("digits-mini", "sd3-lora-mini")
METHODS = ("-m", "dmin", "-m", "d-trak")
INLINE = "inline"
Bytes = dict[str, str]


def speed() -> Iterator[Figure]:
    """Seconds of each executor, and how many files differ after a worker was killed; Ray where it is installed."""
    with tempfile.TemporaryDirectory() as folder, _executors(Path(folder)) as executors:
        for task in TASKS:
            yield from _runs(task, executors, Path(folder))


def _runs(task: str, executors: dict[str, str], folder: Path) -> Iterator[Figure]:
    seconds, _ = _timed(task, INLINE, folder / f"{task}-inline")
    alone, expected = _timed(task, INLINE, folder / f"{task}-one-thread", threads=1)
    yield Figure(f"{task}, inline with one thread", alone, "s", INLINE, seconds, alone / seconds)
    for name, executor in executors.items():
        mine, _ = _timed(task, executor, folder / f"{task}-{name}")
        yield Figure(f"{task}, {name}", mine, "s", INLINE, seconds, mine / seconds)
        mine, found = _timed(task, executor, folder / f"{task}-{name}-killed", threads=1, kill_at=len(expected) // 3)
        yield Figure(f"{task}, {name}, a worker killed", mine, "s", INLINE, seconds, mine / seconds)
        yield _unequal(f"{task}, {name}, killed: files that differ", found, expected)


def _unequal(what: str, found: Bytes, expected: Bytes) -> Figure:
    differing = sum(found.get(name) != digest for name, digest in expected.items()) + len(set(found) - set(expected))
    return Figure(what, differing, "", "files", len(expected), differing / len(expected), "<= 0")


def _timed(
    task: str, executor: str, folder: Path, threads: int | None = None, kill_at: int | None = None
) -> tuple[float, Bytes]:
    """Return the seconds of a command, and the digest of each file that it kept, by its path."""
    cache = folder / "cache"
    command = [sys.executable, "-m", "attrbench", "run", "-t", task, *METHODS, "--executor", executor]
    command += ["--cache", str(cache), "--out", str(folder / "out")]
    env = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    quiet, pipe = subprocess.DEVNULL, subprocess.PIPE
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=quiet, stderr=pipe, text=True, env=env) as process:
        if kill_at is not None:
            _kill_a_worker(process.pid, cache, kill_at)
        _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{executor}: {errors}")
    seconds = time.perf_counter() - started
    files = sorted(cache.rglob("*.safetensors"))
    return seconds, {str(path.relative_to(cache)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _kill_a_worker(command: int, cache: Path, files: int) -> None:
    """Kill a process that holds a claim of the cache, once so many files are there.

    Raises:
        SystemExit: where none was seen while the command was at work.
    """
    while psutil.pid_exists(command) and psutil.Process(command).status() != psutil.STATUS_ZOMBIE:
        if sum(1 for _ in cache.rglob("*.safetensors")) >= files:
            for worker in _holders(cache / "claims"):
                if worker.pid != command:
                    worker.send_signal(signal.SIGKILL)
                    return
        time.sleep(0.02)
    raise SystemExit("no worker was seen at a claim, so that none was killed")


def _holders(claims: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if any(Path(file.path).is_relative_to(claims) for file in process.open_files()):
                yield process
        except psutil.Error:  # ended meanwhile, or another user's
            continue


@contextmanager
def _executors(folder: Path) -> Iterator[dict[str, str]]:
    """Yield a name and a specification of each executor that is installed; Ray's has a cluster of two nodes."""
    found = {"processes": "processes:workers=2,threads=1"}
    if importlib.util.find_spec("submitit") is not None:
        found["slurm (local)"] = f"slurm:cluster=local,jobs=2,cpus=1,time=60,folder={folder / 'slurm'}"
    if importlib.util.find_spec("ray") is None:
        yield found
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    try:
        yield found | {"ray (two nodes)": f"ray:address={cluster.address}"}
    finally:
        cluster.shutdown()
