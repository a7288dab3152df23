"""The entry point of the command line: load the command that was asked for, turn errors into a line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partial, 75 interrupted (run the same command to resume).
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import Any

import typer

from attrbench.errors import AttrbenchError, Interrupted

# Typer brings click along under different names in different versions; its own BadParameter leads to the base.
ClickException: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

COMMANDS = {
    "list": ("list_command:list_", "List methods, tasks, metrics, executors, preparations of data sets and plugins."),
    "run": ("run_command:run", "Run methods on tasks."),
    "tune": ("tune_command:tune", "Choose options on the task's tuning queries, and run the best on the reported ones."),
    "attribute": ("attribute_command:attribute", "Rank the training images for a picture, and draw them on a contact sheet."),
    "leaderboard": ("leaderboard_command:leaderboard", "Rank the records of each task."),
    "check": ("check_command:check", "Check that a method keeps to the contract, on a tiny task; exit 1 where it does not."),
    "train": ("train_command:train", "Repeat the training of a task's weights."),
    "prepare": ("prepare_command:prepare", "Put a data set together, as an image folder."),
    "doctor": ("doctor_command:doctor", "Check Python, libraries, device, memory, disk and plugins; exit 1 where something is wrong."),
    "new": ("new_command:new_app", "Write a file to start from."),
    "cache": ("cache_command:cache_app", "List, check and clear the cache of features and indexes."),
}
"""Where each command is defined, and what `attrbench --help` says of it."""


def command_line(verb: str) -> typer.Typer:
    """Return the command line, of which only the command `verb` is loaded: the others are names with a line of help."""
    app = typer.Typer(
        name="attrbench",
        help="Compare training-data attribution methods on diffusion models.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for name, (place, summary) in COMMANDS.items():
        if name != verb:
            app.command(name, help=summary)(_not_loaded)
            continue
        module, _, attribute = place.partition(":")
        command = getattr(import_module(f"attrbench.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _not_loaded() -> None:
    """Stand for a command that was not asked for."""


def main() -> None:
    """Run the command line and exit."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    _log_to_stderr(debug)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        verb = next((argument for argument in arguments if not argument.startswith("-")), "")
        code = command_line(verb)(arguments, standalone_mode=False)
    except ClickException as error:
        error.show()
        code = 2
    except (Interrupted, KeyboardInterrupt, typer.Abort):
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


def _log_to_stderr(debug: bool) -> None:
    """Write our own warnings as plain lines, with --debug all messages; other libraries keep their own ways."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("attrbench: %(message)s"))
    logger = logging.getLogger("attrbench")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.NOTSET)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def _complain(line: str) -> None:
    prefix = "" if line.startswith(" ") else "attrbench: "
    sys.stderr.write(f"{prefix}{line}\n")
