"""Exceptions with messages for users: one line that says what was wrong, where, and what to do."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from attrbench.text import one_line


class AttrbenchError(Exception):
    """An error that the user can fix; the command line prints its message and exits with its `exit_code`."""

    exit_code = 1


class UsageError(AttrbenchError):
    """An error in the request itself, such as an unknown name or an invalid option; the exit code is 2."""

    exit_code = 2


class Unavailable(AttrbenchError):
    """An error for a method that can't run on this task or machine: weights or a model's capability are missing.

    `-m all` passes over such a method with a line that says so; asked for by name it is an error.
    """


class Damaged(AttrbenchError):
    """An error for files that are not what was written: a checksum differs. What can be made again is made again."""


class FeatureFailed(AttrbenchError):
    """An error for a feature that could not be computed; the methods that need it fail, the others continue."""


class Interrupted(BaseException):
    """An exception that stops a run on a signal; finished work is kept, and the exit code is 75 (EX_TEMPFAIL).

    Like KeyboardInterrupt it is no Exception, so that nothing that guards against faulty plugins holds it up.
    """


def error_line(error: BaseException) -> str:
    """Return an exception as one line of text: its message, preceded by its type unless it is an AttrbenchError."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AttrbenchError) else f"{type(error).__name__}: {text}"


def raised_at(error: BaseException) -> str:
    """Return the file and line where an exception was raised, such as "method.py:26"; empty where nothing is known."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def import_fault(name: str, error: Exception) -> str:
    """Return why a library can't be imported: it `is not installed`, or `does not import` by an error of its own."""
    if isinstance(error, ModuleNotFoundError) and error.name == name:
        return "is not installed"
    return f"does not import ({one_line(error)})"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return a UsageError for an unknown name that suggests the most similar known names, or lists all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
    return UsageError(f"unknown {kind} '{name}': {hint}")
