"""The command line as a Typer application that imports only the module of the requested command."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer

from attrbench.errors import Interrupted
from attrbench.text import plain

# Typer brings click along under different names in different versions; its own BadParameter leads to the base.
ClickException: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

COMMANDS = {
    "list": ("list_command:list_", "List methods, tasks, metrics, executors and whatever else plugins bring."),
    "run": ("run_command:run", "Run methods on tasks."),
    "tune": (
        "tune_command:tune",
        "Choose options on the task's tuning queries, and run the best on the reported ones.",
    ),
    "attribute": (
        "attribute_command:attribute",
        "Rank the training images for pictures, and draw them on a contact sheet.",
    ),
    "status": ("status_command:status", "Say how far the runs on a cache are, from another terminal."),
    "leaderboard": ("leaderboard_command:leaderboard", "Rank the records of each task."),
    "criteria": ("criteria_command:criteria", "Say how alike the criteria of a board order its runs."),
    "compare": (
        "compare_command:compare",
        "Compare two methods on the same queries.",
    ),
    "show": (
        "show_command:show",
        "Show a record: what ran, what came out, what it cost, where.",
    ),
    "score": (
        "score_command:score",
        "Add new metrics to records that exist.",
    ),
    "reproduce": (
        "reproduce_command:reproduce",
        "Reproduce a table or figure of a paper (a suite), or a record.",
    ),
    "records": ("records_command:records_app", "List, check and remove records."),
    "report": (
        "report_command:report",
        "Make a report of records: one page with board, plots, pictures and provenance.",
    ),
    "check": (
        "check_command:check",
        "Check that methods and tasks keep to the contract; exit 1 where one does not.",
    ),
    "train": ("train_command:train", "Repeat the training of a task's weights."),
    "prepare": ("prepare_command:prepare", "Put a data set together, as an image folder."),
    "doctor": (
        "doctor_command:doctor",
        "Check Python, libraries, device, memory, disk and plugins; exit 1 where something is wrong.",
    ),
    "new": ("new_command:new_app", "Write a task file, or a package with a method, task or metric, to start from."),
    "ground-truth": ("ground_truth_command:ground_truth_app", "Build what retraining says, once for a task."),
    "cache": (
        "cache_command:cache_app",
        "List, check and clear the cache of features, indexes, pictures and whatever else is kept.",
    ),
}
"""Where each command is defined, and what `attrbench --help` says of it."""


def command_line(verb: str) -> typer.Typer:
    """Return the Typer application, with only the command `verb` imported and the others listed with a summary."""
    app = typer.Typer(
        name="attrbench",
        help="Compare training-data attribution methods on diffusion models.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_version)
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


def _version(
    version: Annotated[bool, typer.Option("--version", "-V", help="Show the version and exit.")] = False,
) -> None:
    """Compare training-data attribution methods on diffusion models."""


def _not_loaded() -> None:
    """Do nothing: a placeholder for the commands that were not imported, so that the help lists them."""


def run_typer(arguments: list[str], debug: bool) -> int:
    """Run one command with Typer and return its exit code; wrong usage prints Typer's message and returns 2."""
    _log_to_stderr(debug)
    _quiet_libraries()
    verb = next((argument for argument in arguments if not argument.startswith("-")), "")
    try:
        code = command_line(verb)(arguments, standalone_mode=False)
    except ClickException as error:
        _show(error)
        return 2
    except SystemExit as stop:  # Typer's answer to a pipe that nobody reads; the entry point has its own
        if isinstance(stop.__context__, BrokenPipeError):
            raise stop.__context__ from None
        raise
    except typer.Abort:
        raise Interrupted from None
    return int(code or 0)


def _show(error: Any) -> None:
    """Write Typer's message of wrong usage to standard error, without terminal escapes in what the user gave."""
    message = io.StringIO()
    error.show(file=message)
    with suppress(OSError):
        sys.stderr.write("".join(f"{plain(line)}\n" for line in message.getvalue().splitlines()))


class _Plain(logging.Formatter):
    """A formatter of log messages that leaves no terminal escape in them, but keeps the lines of a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text, printable line by line."""
        return "\n".join(map(plain, super().format(record).split("\n")))


def _quiet_libraries() -> None:
    """Turn off the libraries' progress bars and advice by environment variables, before a command imports them."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _log_to_stderr(debug: bool) -> None:
    """Log attrbench's own warnings, with --debug all its messages, as plain lines to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain("attrbench: %(message)s"))
    logger = logging.getLogger("attrbench")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.NOTSET)
