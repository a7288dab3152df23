"""The entry point: turns errors into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partial, 75 interrupted (run the same command to resume).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType

import click
import typer

from attrbench.cli.doctor import doctor
from attrbench.cli.leaderboard import leaderboard
from attrbench.cli.list import list_
from attrbench.cli.run import run
from attrbench.cli.train import train
from attrbench.errors import AttrbenchError

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
app.command("leaderboard")(leaderboard)
app.command("train")(train)
app.command("doctor")(doctor)


def main() -> None:
    """Runs the command line and exits."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    logging.basicConfig(format="attrbench: %(message)s", level=logging.WARNING)
    if threading := os.environ.get("ATTRBENCH_LOG"):
        logging.getLogger("attrbench").setLevel(threading.upper())
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = 2
    except (KeyboardInterrupt, click.Abort):
        _complain("stopped; what is finished is kept. Resume with the same command:")
        _complain(f"  attrbench {' '.join(map(_quoted, arguments))}")
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


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _quoted(argument: str) -> str:
    import shlex

    return shlex.quote(argument)


def _complain(line: str) -> None:
    prefix = "" if line.startswith(" ") else "attrbench: "
    sys.stderr.write(f"{prefix}{line}\n")
