"""The executor `processes`, which runs jobs in several local processes, each with a GPU or some CPU cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field

from attrbench.contracts.executor import Executor
from attrbench.contracts.job import Execute, Receipt
from attrbench.contracts.options import Options
from attrbench.executors.receipts import ended, guarded

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables that set the number of threads of numeric libraries when they are loaded."""
WATCH_SECONDS = 1.0


class ProcessesOptions(Options):
    """Options of the executor `processes`: the number of worker processes and of CPU threads of each."""

    workers: int = Field(2, ge=1, le=1024)
    """How many processes."""
    threads: int | None = Field(None, ge=1)
    """Threads of each; `none`: the cores of this machine shared out."""


class ProcessesExecutor(Executor[ProcessesOptions]):
    """An executor that runs jobs in newly started (spawned) worker processes, each of which opens the task once.

    A worker that dies takes no result with it but the shard it was at: that job is reported as failed, and the others
    go on in new processes.
    """

    name = "processes"
    summary = "several processes of this machine, one CUDA device each or the cores shared out"
    Options: ClassVar[type[ProcessesOptions]] = ProcessesOptions  # type: ignore[misc]
    short_option = "workers"

    def __init__(self, options: ProcessesOptions) -> None:
        super().__init__(options)
        self._pool: ProcessPoolExecutor | None = None

    def run(self, jobs: Sequence[Any], execute: Execute) -> Iterator[Receipt]:
        """Run the jobs in worker processes and yield their receipts; jobs of a dead worker are run again one by one.

        A process that dies takes the pool with it, and nobody says which job it was at: those that were in flight are
        done again one by one, so that a job is called failed only for a process that was its own.
        """
        waiting = list(reversed(jobs))
        flying: dict[Future[Receipt], Any] = {}
        while waiting or flying:
            while waiting and len(flying) < self.options.workers:
                job = waiting.pop()
                flying[self._submit(partial(guarded, execute), job)] = job
            finished, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in finished:
                try:
                    receipt = future.result()
                except BrokenProcessPool:
                    self._drop_pool()
                    lost = list(flying.values())
                    flying.clear()
                    if len(lost) == 1:
                        yield ended(lost[0])
                    else:
                        for job in lost:
                            yield self._alone(job, execute)
                    break
                flying.pop(future)
                yield receipt

    def _alone(self, job: Any, execute: Execute) -> Receipt:
        """Run one job while no other runs, so that if the worker process dies this job is known to be the cause."""
        try:
            return self._submit(partial(guarded, execute), job).result()
        except BrokenProcessPool:
            self._drop_pool()
            return ended(job)

    def _submit(self, work: Any, job: Any) -> Future[Receipt]:
        if self._pool is None:
            self._pool = self._start()
        try:
            return self._pool.submit(work, job)
        except BrokenProcessPool:  # a worker died while idle
            self._drop_pool()
            self._pool = self._start()
            return self._pool.submit(work, job)

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        count = self.options.workers
        threads = self.options.threads or max(1, (os.cpu_count() or 1) // count)
        numbers = context.Queue()
        for number in range(count):
            numbers.put(number)
        with _environment(dict.fromkeys(THREAD_VARIABLES, str(threads))):
            pool = ProcessPoolExecutor(count, context, _begin, (numbers, threads, os.getpid()))
            for _ in range(count):  # processes are started by the first submissions, with the environment of now
                pool.submit(os.getpid)
        return pool

    def _drop_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Terminate the worker processes; unfinished jobs are lost, written results are kept."""
        self._drop_pool()


def _begin(numbers: Any, threads: int, parent: int) -> None:
    """Initialize a worker process: threads, device, signals, and termination with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends its workers
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(numbers.get() % torch.cuda.device_count())
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Watch the parent process from a thread, and end this worker process when the parent has ended."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside the `with` block (for processes started there), then restore them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
