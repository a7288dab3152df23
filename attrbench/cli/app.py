"""The entry point: turns errors into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partial, 75 interrupted (run the same command to resume).
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from types import FrameType
from typing import Any

import typer

from attrbench.cli.attribute_command import attribute
from attrbench.cli.cache_command import cache_app
from attrbench.cli.check_command import check
from attrbench.cli.doctor_command import doctor
from attrbench.cli.ground_truth_command import ground_truth_app
from attrbench.cli.leaderboard_command import leaderboard
from attrbench.cli.list_command import list_
from attrbench.cli.new_command import new_app
from attrbench.cli.prepare_command import prepare
from attrbench.cli.run_command import run
from attrbench.cli.train_command import train
from attrbench.cli.tune_command import tune
from attrbench.errors import AttrbenchError, Interrupted

# Typer brings click along under different names in different versions; its own BadParameter leads to the base.
ClickException: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="attrbench",
    help="Compare training-data attribution methods on diffusion models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("list")(list_)
app.command("run")(run)
app.command("tune")(tune)
app.command("attribute")(attribute)
app.command("leaderboard")(leaderboard)
app.command("check")(check)
app.command("train")(train)
app.command("prepare")(prepare)
app.command("doctor")(doctor)
app.add_typer(new_app, name="new")
app.add_typer(cache_app, name="cache")
app.add_typer(ground_truth_app, name="ground-truth")


def main() -> None:
    """Runs the command line and exits."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    _log_to_stderr(debug)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        code = app(arguments, standalone_mode=False)
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
    """Our own warnings as plain lines, with --debug all we have to say; other libraries keep their own ways."""
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
