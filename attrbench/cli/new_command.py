"""The command `attrbench new task`, which writes a commented task file for the user to fill in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from attrbench.cli.common import Debug
from attrbench.errors import AttrbenchError, UsageError
from attrbench.files import write_atomically
from attrbench.taskfile.template import template

new_app = typer.Typer(
    help="Write a file to start from.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@new_app.callback()
def _new() -> None:
    """Write a file to start from."""


@new_app.command("task")
def task(
    path: Annotated[Path, typer.Argument(help="The file; ends in .toml.")] = Path("mytask.toml"),
    family: Annotated[
        Literal["sd1", "sd3", "ddpm"], typer.Option(help="Stable Diffusion 1.x, Stable Diffusion 3, or a DDPM.")
    ] = "sd1",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    debug: Debug = False,
) -> None:
    """Write a commented task file for your own model (docs/how-to/own-model.md)."""
    if path.suffix != ".toml":
        raise UsageError(f"{path}: the name of a task file ends in .toml")
    if path.exists() and not force:
        raise AttrbenchError(f"{path} is there already: choose another name, or write over it with --force")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("._-") or "mytask"
    try:
        write_atomically(path, template(name, family).encode())
    except OSError as error:
        raise AttrbenchError(f"cannot write {path}: {error.strerror}") from None
    typer.echo(f"{path}: fill in the paths, then 'attrbench run -m dmin -t {path}'")
