"""The executor `fresh-process`: each job in a new Python process, which ends with it.

Slow, as each process imports torch and opens the task, but nothing outlives a job. A job travels to the process's
standard input and its receipt comes back from the standard output, both pickled.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, ClassVar

from pydantic import Field

from attrbench.contracts.executor import Executor
from attrbench.contracts.job import Execute, Receipt
from attrbench.contracts.options import Options
from attrbench.errors import AttrbenchError

COMMAND = "from attrbench_example.fresh_process import do_one_job; do_one_job()"


class FreshProcessOptions(Options):
    """Options of `fresh-process`."""

    parallel: int = Field(1, ge=1, le=1024)
    """How many processes at a time."""
    minutes: float = Field(60, gt=0)
    """After how long a process is ended, and its job done again."""


class FreshProcess(Executor[FreshProcessOptions]):
    """A process a job."""

    name = "fresh-process"
    summary = "each job in a new Python process, which ends with it"
    Options: ClassVar[type[FreshProcessOptions]] = FreshProcessOptions  # type: ignore[misc]
    short_option = "parallel"

    def run(self, jobs: Sequence[Any], execute: Execute) -> Iterator[Receipt]:
        """Start a process for each job, `parallel` at a time, and yield receipts as they come."""
        with ThreadPoolExecutor(self.options.parallel) as threads:
            for future in as_completed([threads.submit(self._do, job, execute) for job in jobs]):
                yield future.result()

    def _do(self, job: Any, execute: Execute) -> Receipt:
        """Return the receipt of a job; `failed` where its process ended without one."""
        try:
            process = subprocess.run(
                [sys.executable, "-c", COMMAND],
                input=pickle.dumps((execute, job)),
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                timeout=60 * self.options.minutes,
                check=True,
            )
        except subprocess.TimeoutExpired:
            return Receipt(job, "failed", AttrbenchError(f"not done after {self.options.minutes:g} minutes"))
        except subprocess.CalledProcessError as error:
            return Receipt(job, "failed", AttrbenchError(f"its process ended with code {error.returncode}"))
        receipt: Receipt = pickle.loads(process.stdout)
        return receipt


def do_one_job() -> None:
    """Do the job on the standard input, and write its receipt to the standard output; prints go to stderr."""
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    execute, job = pickle.loads(sys.stdin.buffer.read())
    try:
        receipt = execute(job)
    except Exception as error:
        receipt = Receipt(job, "failed", error)
    with answer:
        answer.write(_portable(receipt))


def _portable(receipt: Receipt) -> bytes:
    """Return the pickled receipt; an error that does not pickle becomes one of ours with its text."""
    try:
        data = pickle.dumps(receipt)
        pickle.loads(data)
    except Exception:
        failures = {feature: AttrbenchError(str(error)) for feature, error in receipt.failures.items()}
        error = None if receipt.error is None else AttrbenchError(f"{type(receipt.error).__name__}: {receipt.error}")
        data = pickle.dumps(Receipt(receipt.job, receipt.state, error, failures))
    return data
