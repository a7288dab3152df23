"""Redirection of what plugins print at import to standard error, so that standard output holds results only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Send what is printed within to standard error, by Python as by libraries in C and by child processes."""
    with suppress(OSError, ValueError, AttributeError):  # ours from before goes where it belongs; a fault shows later
        sys.stdout.flush()
    saved = None
    with suppress(OSError):  # a closed stream has no descriptor to exchange
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)
