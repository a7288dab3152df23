"""The entry point of the command line: runs a command, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partial, 75 interrupted (run the same command to resume).
"""

from __future__ import annotations

import os
import shlex
import sys

from attrbench.cli.listing import quick_arguments, write_listing
from attrbench.errors import AttrbenchError, Interrupted
from attrbench.interruptions import ignore_interruptions, obey_interruptions


def main() -> None:
    """Run the command that the process arguments name, print errors as one line, and exit with its exit code."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    obey_interruptions()
    try:
        code = _run(arguments, debug)
    except (Interrupted, KeyboardInterrupt):
        ignore_interruptions()
        _complain("stopped; what is finished is kept. Resume with the same command:")
        _complain(f"  {shlex.join(['attrbench', *arguments])}")
        code = 75
    except AttrbenchError as error:
        if debug:
            raise
        _complain(f"error: {error}")
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if debug:
            raise
        _complain(
            f"error: {type(error).__name__}: {' '.join(str(error).split())} (run again with --debug for the traceback)"
        )
        code = 1
    sys.exit(code)


def _run(arguments: list[str], debug: bool) -> int:
    """Run one command and return its exit code; a plain `list` is answered without importing Typer, which is slow."""
    quick = quick_arguments(arguments)
    if quick is not None:
        write_listing(**quick)
        return 0
    from attrbench.cli.typer_app import run_typer  # Typer takes longer to import than `list` takes

    return run_typer(arguments, debug)


def _complain(line: str) -> None:
    prefix = "" if line.startswith(" ") else "attrbench: "
    sys.stderr.write(f"{prefix}{line}\n")
