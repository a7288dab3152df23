"""The executor `slurm`, which hands jobs to Slurm in arrays by submitit, or to processes of this machine for a trial.

Each task of the array (a Slurm job) does a share of the jobs, one after the other, so that it opens the task once. It
notes which job it is at, so that of a share whose process died only that job counts as failed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal
from uuid import uuid4

import torch
from pydantic import Field

from attrbench.contracts.executor import Executor
from attrbench.contracts.job import Execute, Receipt
from attrbench.contracts.options import Options
from attrbench.errors import AttrbenchError
from attrbench.executors.cluster_library import cluster_library
from attrbench.executors.receipts import ended, guarded
from attrbench.text import one_line

POLL_SECONDS = 1.0
"""Time between two looks at whether a share is done."""


class SlurmOptions(Options):
    """Options of the executor `slurm`: how many Slurm jobs, on what, for how long, and where they leave their logs."""

    jobs: int = Field(4, ge=1)
    """Slurm jobs, tasks of one array, that run side by side."""
    partition: str | None = None
    """Slurm's partition; `none`: its default."""
    account: str | None = None
    """Slurm's account; `none`: its default."""
    gpus: int = Field(0, ge=0)
    """GPUs of each Slurm job."""
    cpus: int = Field(4, ge=1)
    """CPU cores of each Slurm job, and its threads."""
    memory: float | None = Field(None, gt=0)
    """GB of memory of each Slurm job; `none`: Slurm's default."""
    time: int = Field(240, ge=1)
    """Minutes that a Slurm job may take. One that is cut off, or preempted, is queued again and goes on."""
    folder: Path = Path("attrbench-slurm")
    """Folder of logs and of what is handed over, which all nodes see, as they must see the cache."""
    cluster: Literal["slurm", "local"] = "slurm"
    """`local`: processes of this machine instead of Slurm, to try things out."""


class SlurmExecutor(Executor[SlurmOptions]):
    """An executor that shares jobs out to the tasks of a Slurm array and waits for them.

    Slurm jobs go on where this process ends by a kill; what they finish is found by the next run.
    """

    name = "slurm"
    summary = "arrays of Slurm jobs, by submitit"
    Options: ClassVar[type[SlurmOptions]] = SlurmOptions  # type: ignore[misc]
    short_option = "jobs"
    elsewhere = True

    def __init__(self, options: SlurmOptions) -> None:
        super().__init__(options)
        self._submitit = cluster_library("submitit")
        self._handles: list[Any] = []

    @property
    def device(self) -> str | None:
        """Return the device of the workers: CUDA's where they have a GPU, whatever this process has."""
        return "cuda" if self.options.gpus else "cpu"

    def run(self, jobs: Sequence[Any], execute: Execute) -> Iterator[Receipt]:
        """Run the jobs in an array and yield their receipts share by share; those after a dead one are shared out anew.

        Raises:
            AttrbenchError: where Slurm does not take the array.
        """
        left = list(jobs)
        while left:
            count = min(self.options.jobs, len(left))
            shares = [Share(execute, left[place::count], self._notes()) for place in range(count)]
            left = []
            for share, handle in self._as_done(self._submitted(shares)):
                receipts = _receipts(handle)
                if receipts is None:
                    receipts = share.told()
                    left += share.after()
                yield from receipts

    def _notes(self) -> Path:
        return self.options.folder.resolve() / "notes" / uuid4().hex

    def _submitted(self, shares: Sequence[Share]) -> list[tuple[Share, Any]]:
        """Submit an array with a task for each share; return them with the handles by which they are asked after."""
        o = self.options
        try:
            executor = self._submitit.AutoExecutor(folder=o.folder / "%j", cluster=o.cluster)
            executor.update_parameters(
                name="attrbench",
                timeout_min=o.time,
                cpus_per_task=o.cpus,
                gpus_per_node=o.gpus,
                **({} if o.memory is None else {"mem_gb": o.memory}),
                **({"slurm_array_parallelism": o.jobs} if o.cluster == "slurm" else {}),
                **{f"slurm_{name}": value for name in ("partition", "account") if (value := getattr(o, name))},
            )
            handles = executor.map_array(_do, shares, [o.cpus] * len(shares))
        except Exception as error:
            raise AttrbenchError(
                f"executor slurm: {o.cluster} does not take the jobs: {one_line(error)[:300]}"
            ) from None
        self._handles = list(handles)
        return list(zip(shares, handles, strict=True))

    def _as_done(self, pairs: list[tuple[Share, Any]]) -> Iterator[tuple[Share, Any]]:
        while pairs:
            done = [pair for pair in pairs if pair[1].done()]
            pairs = [pair for pair in pairs if pair not in done]
            yield from done
            if pairs and not done:
                time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Cancel the Slurm jobs that are not done; finished results are kept."""
        for handle in self._handles:
            with suppress(Exception):
                if not handle.done():
                    handle.cancel()
        self._handles = []


class Share:
    """The jobs of one Slurm job, done one after the other; it notes each before it begins it.

    Args:
        execute: does a job.
        jobs: the jobs.
        notes: folder for the numbers of the jobs that were begun and done.
    """

    def __init__(self, execute: Execute, jobs: Sequence[Any], notes: Path) -> None:
        self.execute, self.jobs, self.notes = execute, list(jobs), notes

    def do(self) -> list[Receipt]:
        """Do all jobs that are not done yet and return the receipts of all, in their order."""
        self.notes.mkdir(parents=True, exist_ok=True)
        receipts = []
        for number, job in enumerate(self.jobs):
            if self._is_noted(number, "done"):  # by this share before Slurm cut it off
                receipts.append(Receipt(job))
                continue
            self._note(number, "begun")
            receipts.append(guarded(self.execute, job))
            if receipts[-1].state == "done" and not receipts[-1].failures:
                self._note(number, "done")
        return receipts

    def told(self) -> list[Receipt]:
        """Return the receipts of the jobs that were begun by a share whose process died: the last one has failed."""
        begun = self._begun()
        return [Receipt(job) if self._is_noted(number, "done") else ended(job) for number, job in enumerate(begun)]

    def after(self) -> list[Any]:
        """Return the jobs that a share whose process died had not begun."""
        return self.jobs[len(self._begun()) :]

    def _begun(self) -> list[Any]:
        """Return the jobs that were begun; the first, where none was, since it is what the process could not do."""
        count = sum(self._is_noted(number, "begun") for number in range(len(self.jobs)))
        return self.jobs[: max(1, count)]

    def _note(self, number: int, what: str) -> None:
        (self.notes / f"{number}.{what}").touch()

    def _is_noted(self, number: int, what: str) -> bool:
        return (self.notes / f"{number}.{what}").exists()


class _Do:
    """The function of a Slurm job: does a share. Slurm's signal before a time limit or preemption queues it again."""

    def __call__(self, share: Share, threads: int) -> list[Receipt]:
        torch.set_num_threads(threads)
        return share.do()

    def checkpoint(self, share: Share, threads: int) -> Any:
        """Return what submitit queues in the place of a job that is cut off: the same share, which skips done jobs."""
        return cluster_library("submitit").helpers.DelayedSubmission(self, share, threads)


_do = _Do()


def _receipts(handle: Any) -> list[Receipt] | None:
    """Return the receipts that a Slurm job left; None where its process died."""
    try:
        receipts: list[Receipt] = handle.result()
    except Exception:
        return None
    return receipts
