"""The commands `attrbench new`, which write a task file or a plugin package for the user to fill in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from attrbench.cli.common import Debug
from attrbench.errors import AttrbenchError, UsageError
from attrbench.files import write_atomically
from attrbench.plugins import registry as plugins
from attrbench.plugins.new_package import Kind, Start, distribution_name, package_files
from attrbench.taskfile.names import is_file
from attrbench.taskfile.template import template

new_app = typer.Typer(
    help="Write a task file, or a package with a method, task or metric, to start from.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Out = Annotated[Path, typer.Option("--out", help="Where the package's folder is made.", show_default="here")]
Force = Annotated[bool, typer.Option("--force", help="Write over files that are there.")]


@new_app.callback()
def _new() -> None:
    """Write a task file, or a package with a method, task or metric, to start from."""


@new_app.command("task")
def task(
    path: Annotated[
        Path, typer.Argument(help="A task file for your own model, which ends in .toml; or the name of a package.")
    ] = Path("mytask.toml"),
    family: Annotated[
        Literal["sd1", "sd3", "ddpm"] | None,
        typer.Option(help="Of a file: Stable Diffusion 1.x [default], Stable Diffusion 3, or a DDPM."),
    ] = None,
    out: Out = Path(),
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Write a commented task file for your own model, or a package with a task.

    docs/how-to/own-model.md is about files, docs/how-to/plugins.md about packages.
    """
    if path.suffix != ".toml":
        if path.suffix or is_file(str(path)):
            raise UsageError(f"{path}: the name of a task file ends in .toml")
        if family is not None:
            raise UsageError("--family is of task files, whose names end in .toml; a package brings its own model")
        _write_package("task", str(path), out, force)
        return
    if path.exists() and not force:
        raise AttrbenchError(f"{path} is there already: choose another name, or write over it with --force")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("._-") or "mytask"
    _write({path: template(name, family or "sd1")})
    typer.echo(f"{path}: fill in the paths, then 'attrbench run -m dmin -t {path}'")


@new_app.command("method")
def method(
    name: Annotated[str, typer.Argument(help="What -m is to take, such as brightness.")],
    features: Annotated[
        Literal["images", "gradients"], typer.Option(help="What it compares as it stands: pictures, or gradients.")
    ] = "images",
    out: Out = Path(),
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Write a package with a method that works as it stands, and a test that checks it (docs/how-to/plugins.md)."""
    _write_package("method", name, out, force, "gradient-method" if features == "gradients" else None)


@new_app.command("metric")
def metric(
    name: Annotated[str, typer.Argument(help="Its name on leaderboards, such as first-hit.")],
    out: Out = Path(),
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Write a package with a metric that works as it stands, and a test of it (docs/how-to/plugins.md)."""
    _write_package("metric", name, out, force)


def _write_package(kind: Kind, name: str, out: Path, force: bool, start: Start | None = None) -> None:
    """Write the files of a package into a folder of its own, and say how to install it."""
    contents = package_files(plugins.registry(), kind, name, start)
    folder = out / distribution_name(name)
    if folder.exists() and not force:
        raise AttrbenchError(f"{folder} is there already: choose another name, or write over its files with --force")
    _write({folder / path: text for path, text in contents.items()})
    for path in contents:
        typer.echo(f"{folder / path}")
    then = {"metric": "attrbench list metrics"}.get(kind, f"attrbench check {name}")
    typer.echo(f"install it with 'pip install -e {folder}', then '{then}'")


def _write(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            raise AttrbenchError(f"cannot write {path}: {error.strerror}") from None
