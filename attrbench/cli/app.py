"""The entry point of the command line: runs a command, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partial, 75 interrupted (run the same command to resume), 141 nobody
reads the output any more (as of a program that SIGPIPE ends).
"""

from __future__ import annotations

import shlex
import sys

from attrbench.cli.listing import quick_arguments, write_listing
from attrbench.cli.streams import complain, discard, output_fault, prepare_streams
from attrbench.errors import AttrbenchError, Interrupted, UsageError, error_line
from attrbench.interruptions import ignore_interruptions, obey_interruptions
from attrbench.version import __version__

BROKEN_PIPE = 128 + 13


def main() -> None:
    """Run the command that the process arguments name, print errors as one line, and exit with its exit code."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    obey_interruptions()
    try:
        prepare_streams()
        code = _run(arguments, debug)
        sys.stdout.flush()  # a full disk or a closed pipe is told of here, not when Python ends
    except (Interrupted, KeyboardInterrupt):
        ignore_interruptions()
        complain("stopped; what is finished is kept. Resume with the same command:")
        complain(f"  {shlex.join(['attrbench', *arguments])}")
        code = 75
    except AttrbenchError as error:
        if debug:
            raise
        complain(f"error: {error}")
        code = error.exit_code
    except BrokenPipeError:
        code = BROKEN_PIPE
    except Exception as error:
        fault = output_fault(error) if isinstance(error, OSError) else None
        if debug and fault is None:
            raise
        complain(f"error: {_unexpected(error) if fault is None else f'cannot write to standard output: {fault}'}")
        code = 1
    try:
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)
    sys.exit(code)


def _unexpected(error: Exception) -> str:
    """Return a line about an error that no command expected: of a file the disk is at fault, of others we are."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return (
            f"{error.filename}: {error.strerror} (what is finished is kept: mend that, and run the same command again)"
        )
    return f"{error_line(error)} (run again with --debug for the traceback)"


def _run(arguments: list[str], debug: bool) -> int:
    """Run one command and return its exit code; a plain `list` is answered without importing Typer, which is slow."""
    for argument in arguments:
        if "\0" in argument:
            raise UsageError(f"cannot read the argument '{argument}': it holds a NUL character")
    if arguments in (["--version"], ["-V"]):
        sys.stdout.write(f"attrbench {__version__}\n")
        return 0
    quick = quick_arguments(arguments)
    if quick is not None:
        write_listing(**quick)
        return 0
    from attrbench.cli.typer_app import run_typer  # Typer takes longer to import than `list` takes

    return run_typer(arguments, debug)
