"""The command `attrbench prepare`, which builds a data set as an image folder from its sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from attrbench.cli.common import RESULTS, Cache, Debug
from attrbench.contracts.dataset_builder import Order
from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.options import build_options, parse_spec
from attrbench.errors import UsageError, unknown_name
from attrbench.evaluation.folders import cache_folder
from attrbench.plugins import registry as plugins


def prepare(
    what: Annotated[str, typer.Argument(help="NAME or NAME:KEY=VALUE,... of `attrbench list preparations`.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the data set [default: attrbench-results/prepared/NAME].")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            help="NAME=PATH or NAME=PATH:KEY=VALUE,...: where to take a source from; keys as in a task file's [train].",
        ),
    ] = None,
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Put a data set together, as an image folder. The same command resumes after an interruption."""
    specs = parse_spec(what)
    if len(specs) != 1:
        raise UsageError(f"{what}: one data set at a time")
    kind = plugins.registry().preparation(specs[0].name)
    preparation = kind(build_options("preparation", specs[0], kind.Options))
    sources = dict(_source(text, kind.sources) for text in source or ())
    folder = RESULTS / "prepared" / kind.name if out is None else out
    preparation.prepare(Order(folder, cache_folder(cache, RESULTS), sources, typer.echo))
    typer.echo(f"the data set is in {folder}")


def _source(text: str, known: Mapping[str, DatasetSource]) -> tuple[str, DatasetSource]:
    """Parse a `--source` argument (NAME=PATH:KEY=VALUE,...) into the source's name and its data set source."""
    name, equals, where = text.partition("=")
    if not equals or not where:
        raise UsageError(f"--source {text}: expected NAME=PATH or NAME=PATH:KEY=VALUE,...")
    if name not in known:
        raise unknown_name("source", name, known)
    spec = parse_spec(where)[0]
    try:
        return name, DatasetSource.model_validate({"path": spec.name, **spec.given})
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown_name(f"option of source {name}", option, DatasetSource.model_fields) from None
        raise UsageError(f"--source {text}: {option}: {first['msg']}") from None
