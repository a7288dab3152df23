"""Receipts of jobs in other processes: errors in a form that crosses processes, and jobs whose process died."""

from __future__ import annotations

import pickle
from typing import Any

from attrbench.contracts.job import Execute, Receipt
from attrbench.errors import AttrbenchError


def guarded(execute: Execute, job: Any) -> Receipt:
    """Run a job in a worker process; return its receipt, with any exception in a form that can be pickled."""
    try:
        receipt = execute(job)
    except Exception as error:
        return Receipt(job, "failed", _portable(error))
    failures = {feature: _portable(error) for feature, error in receipt.failures.items()}
    return Receipt(job, receipt.state, receipt.error, failures)


def ended(job: Any) -> Receipt:
    """Return the failed receipt of a job whose worker process died before the job was done."""
    return Receipt(job, "failed", AttrbenchError("its process ended before it was done"))


def _portable(error: Exception) -> Exception:
    """Return the exception if it survives pickling to another process, else an AttrbenchError with its text."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (of our own making, within this process)
    except Exception:
        return AttrbenchError(f"{type(error).__name__}: {error}")
    return error
