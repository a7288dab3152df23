"""The errors that a user is meant to read: one line that says what was wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AttrbenchError(Exception):
    """Something went wrong that the user can act on. The command line prints the message and exits with `exit_code`."""

    exit_code = 1


class UsageError(AttrbenchError):
    """The request itself is wrong: an unknown name, an invalid option. Exit code 2."""

    exit_code = 2


class Unavailable(AttrbenchError):
    """A method cannot work here: weights are missing, or the task's model has not what it needs.

    `-m all` passes over such a method with a line that says so; asked for by name it is an error.
    """


class FeatureFailed(AttrbenchError):
    """A feature could not be computed. The methods that need it fail; the others of the run go on."""


class Interrupted(BaseException):
    """The run was stopped by a signal; what is finished is kept. Exit code 75 (EX_TEMPFAIL: try again).

    Like KeyboardInterrupt it is no Exception, so that nothing that guards against faulty plugins holds it up.
    """


def error_line(error: BaseException) -> str:
    """Return the message of an AttrbenchError, and type and message of any other error, on one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AttrbenchError) else f"{type(error).__name__}: {text}"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """A usage error that names the nearest known names, or all of them where none is near."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
    return UsageError(f"unknown {kind} '{name}': {hint}")
