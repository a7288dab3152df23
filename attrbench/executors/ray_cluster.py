"""The executor `ray`, which runs jobs in actors of a Ray cluster, each with some CPU cores or GPUs of one node.

Plain actors rather than Ray Data: a job writes its result to the store itself and returns a receipt of a few bytes, so
that there are no blocks of data to move or to balance; what is wanted of Ray is a process with its resources that keeps
the opened task from job to job, and word of which process died.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from attrbench.contracts.executor import Executor
from attrbench.contracts.job import Execute, Receipt
from attrbench.contracts.options import Options
from attrbench.errors import AttrbenchError, UsageError
from attrbench.executors.cluster_library import cluster_library
from attrbench.executors.receipts import ended, guarded
from attrbench.text import one_line


class RayOptions(Options):
    """Options of the executor `ray`: the cluster's address, and the number and resources of its workers."""

    address: str | None = None
    """Address of a running cluster, or `auto` for the one that this machine belongs to; `none`: one of its own."""
    workers: int | None = Field(None, ge=1)
    """How many workers; `none`: as many as the cluster has room for."""
    cpus: int = Field(1, ge=1)
    """CPU cores of each worker, and its threads."""
    gpus: float = Field(0, ge=0)
    """GPUs of each worker; a part of one, such as 0.5, lets several share it."""


class RayExecutor(Executor[RayOptions]):
    """An executor that runs jobs in Ray actors, which are neither restarted nor given a job twice by Ray itself.

    A worker that dies takes no result with it but the shard it was at: that job is reported as failed, and a new worker
    takes its place.
    """

    name = "ray"
    summary = "actors of a Ray cluster, on one machine or many"
    Options: ClassVar[type[RayOptions]] = RayOptions  # type: ignore[misc]
    short_option = "workers"
    elsewhere = True

    def __init__(self, options: RayOptions) -> None:
        super().__init__(options)
        self._ray = cluster_library("ray")
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Any]] = {}
        self._begun = self._connected = False

    @property
    def device(self) -> str | None:
        """Return the device of the workers: CUDA's where they have a GPU, whatever this process has."""
        return "cuda" if self.options.gpus else "cpu"

    def run(self, jobs: Sequence[Any], execute: Execute) -> Iterator[Receipt]:
        """Run the jobs in the workers, one at a time in each, and yield each receipt as it comes.

        Raises:
            UsageError: where no node of the cluster has the resources that one worker needs.
            AttrbenchError: where the cluster can't be reached.
        """
        self._start()
        waiting = list(reversed(jobs))
        while waiting or self._busy:
            while waiting and self._idle:
                worker, job = self._idle.pop(), waiting.pop()
                self._busy[worker.do.remote(execute, job)] = worker, job
            (ready,), _ = self._ray.wait(list(self._busy), num_returns=1)
            worker, job = self._busy.pop(ready)
            try:
                receipt = self._ray.get(ready)
            except self._ray.exceptions.RayActorError:
                receipt, worker = ended(job), self._worker()
            self._idle.append(worker)
            yield receipt

    def _start(self) -> None:
        """Connect to the cluster and start the workers, unless that is done."""
        if self._begun:
            return
        if not self._ray.is_initialized():
            try:
                self._ray.init(
                    address=self.options.address or "local",
                    include_dashboard=False if self.options.address is None else None,
                    log_to_driver=False,
                    logging_level="error",
                )
            except Exception as error:
                where = self.options.address or "on this machine"
                raise AttrbenchError(f"executor ray: no cluster at {where}: {one_line(error)[:300]}") from None
            self._connected = True
        self._idle = [self._worker() for _ in range(self._count())]
        self._begun = True

    def _count(self) -> int:
        """Return how many workers to start: those asked for, as far as the nodes have room for them."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        room = sum(self._fit(node) for node in nodes)
        if room == 0:
            largest = max(node.get("CPU", 0) for node in nodes), max(node.get("GPU", 0) for node in nodes)
            raise UsageError(
                f"executor ray: no node has room for a worker with cpus={self.options.cpus} and"
                f" gpus={self.options.gpus:g}; the most on one are {largest[0]:g} CPUs and {largest[1]:g} GPUs"
            )
        return min(self.options.workers or room, room)

    def _fit(self, node: dict[str, float]) -> int:
        """Return how many workers fit on a node, given its resources by name."""
        wanted = {"CPU": self.options.cpus, "GPU": self.options.gpus}
        return min(math.floor(node.get(name, 0) / amount) for name, amount in wanted.items() if amount)

    def _worker(self) -> Any:
        """Start an actor that does jobs."""
        resources = {"num_cpus": self.options.cpus, "num_gpus": self.options.gpus}
        actor = self._ray.remote(**resources, max_restarts=0, max_task_retries=0)(Worker)
        return actor.remote(self.options.cpus)

    def close(self) -> None:
        """End the workers, and the connection or cluster if this executor began it; finished results are kept."""
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            self._ray.kill(worker)
        self._idle, self._busy, self._begun = [], {}, False
        if self._connected:
            self._ray.shutdown()
            self._connected = False


class Worker:
    """A process of the cluster that does one job after the other; Ray makes an actor of it and sets its devices.

    Args:
        threads: of torch.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def do(self, execute: Execute, job: Any) -> Receipt:
        """Run a job and return its receipt, whatever it raises."""
        return guarded(execute, job)
