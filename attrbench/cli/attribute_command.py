"""The command `attrbench attribute`, which ranks the training images by their influence on pictures."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attrbench import api
from attrbench.cli.attribution_files import MAPPED, NamedFiles, Written
from attrbench.cli.common import (
    RESULTS,
    Backend,
    BatchSize,
    Cache,
    Debug,
    Device,
    LimitTrain,
    Out,
    ReadCache,
    console,
)
from attrbench.errors import UsageError
from attrbench.metrics.agreement import Agreement, joined
from attrbench.reports.named_files import write_sheet
from attrbench.text import one_line, plain

if TYPE_CHECKING:
    from attrbench.evaluation.attribution import Attributions


def attribute(
    method: Annotated[
        list[str], typer.Option("--method", "-m", help="NAME or NAME:KEY=VALUE,...; several are shown side by side.")
    ],
    task: Annotated[str, typer.Option("--task", "-t", help="NAME or FILE.toml, with :KEY=VALUE,... or without.")],
    image: Annotated[list[Path] | None, typer.Option(help="Picture to attribute; may be given several times.")] = None,
    image_dir: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of pictures to attribute, captions beside them; may be given several times."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="The picture's prompt, or that of all; without pictures the model draws one first."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of a picture that the model draws [default: 0].")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many training images.")] = 20,
    lowest: Annotated[int, typer.Option(min=0, help="How many of those with the lowest scores, beside them.")] = 0,
    duplicates: Annotated[
        Literal["group", "list"],
        typer.Option(help="Training images that are nearly the same: as one row, or each for itself."),
    ] = "group",
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Folder or file with other weights of the model: a training checkpoint, another LoRA."),
    ] = None,
    output_format: Annotated[
        Literal["table", "json", "jsonl"],
        typer.Option("--format", help="jsonl: a line a query as it is scored, for thousands; no sheet by default."),
    ] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(help="File with the pictures, by page [default: OUT/TASK/attributed-METHOD-ID.png]."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="File, such as page.html: one page with pictures, scores, captions, agreement, provenance."),
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(
            help=f"Picture file: where in the query the scores of the first {MAPPED} come from; for one query, of"
            " grad-dot or dmin:v=none."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the files that --sheet, --html and --evidence name.")
    ] = False,
    limit_train: LimitTrain = None,
    device: Device = None,
    out: Out = RESULTS,
    cache: Cache = None,
    read_cache: ReadCache = None,
    batch_size: BatchSize = None,
    backend: Backend = "hooks",
    debug: Debug = False,
) -> None:
    """Rank the training images for pictures, and draw them on a contact sheet. Uses the same cache as `run`."""
    if as_json and output_format == "jsonl":
        raise UsageError("--json and --format jsonl: leave out one of them")
    files = NamedFiles(sheet, html, evidence, force)
    files.check(image or (), image_dir or ())
    options: dict[str, Any] = {
        "images": image or (),
        "image_dirs": image_dir or (),
        "prompts": prompt or (),
        "picture_seed": seed,
        "k": k,
        "lowest": lowest,
        "duplicates": duplicates,
        "checkpoint": checkpoint,
        "out": out,
        "cache": cache,
        "read_cache": read_cache,
        "device": device,
        "limit_train": limit_train,
        "batch_size": batch_size,
        "backend": backend,
    }
    if output_format == "jsonl":
        files.check_stream()
        _Stream(sheet, force).write(api.attribute_blocks(method, task, **options))
        return
    answers = api.attribute(method, task, evidence=MAPPED if evidence else 0, **options)
    pages = answers.sheet()
    written = files.write(answers, pages, out)
    notes = [*answers.notes, *_notes(pages.scripts_without_font())]
    if as_json or output_format == "json":
        from attrbench.reports.attribution_json import document  # torch comes with the answers, not before

        typer.echo(json.dumps(document(answers, written.sheets, notes) | _others(written), indent=1, allow_nan=False))
    else:
        from attrbench.reports.attribution_table import parts  # likewise

        terminal = console()
        for part in parts(answers):
            terminal.print(part)
        typer.echo("\n".join(written.lines))
    for line in (*notes, *answers.warnings):
        typer.echo(f"attrbench: {line}", err=True)
    if answers.warnings:
        raise typer.Exit(3)


def _others(written: Written) -> dict[str, str]:
    """Return the files beside the contact sheet as JSON values, where there are some."""
    return {name: str(path) for name, path in (("html", written.html), ("evidence", written.evidence)) if path}


def _notes(lacking: Mapping[str, str]) -> list[str]:
    """Return a line about scripts that are drawn as boxes, if there are any."""
    if not lacking:
        return []
    first = one_line(next(iter(lacking.values())))
    return [
        f"no font of this machine draws {', '.join(lacking)} (first in '{first}'), so the sheet has boxes there:"
        " install one, such as Noto"
    ]


@dataclass
class _Stream:
    """The answers to many queries, written to standard output as JSON, a line for each as soon as it is scored.

    Attributes:
        sheet: file of the contact sheet, whose pages are numbered; None for none.
        force: whether pages may be replaced.
    """

    sheet: Path | None
    force: bool
    _queries: int = 0
    _failed: int = 0
    _pages: int = 0
    _warned: bool = False
    _agreement: list[list[Agreement]] = field(default_factory=list)

    def write(self, blocks: Iterator[Attributions]) -> None:
        """Write all answers, and a line about the speed on standard error; exit with 3 if a query has none."""
        from attrbench.reports.attribution_json import lines, query_errors  # torch comes with it

        output = sys.stdout  # a progress bar on a terminal takes the name's place
        started = time.perf_counter()
        said: set[str] = set()
        for answers in blocks:
            for line in lines(answers):
                output.write(json.dumps(line, allow_nan=False) + "\n")
            output.flush()
            self._queries += answers.block.size
            self._failed += query_errors(answers)
            self._warned |= bool(answers.warnings)
            self._agreement += [answers.agreement] if answers.agreement else []
            self._draw(answers)
            for note in _new(answers, said):
                typer.echo(f"attrbench: {plain(note)}", err=True)
        seconds = time.perf_counter() - started
        for note in self._mean_agreement():
            typer.echo(f"attrbench: {plain(note)}", err=True)
        failed = f", {self._failed} without an answer by every method (error)" if self._failed else ""
        rate = self._queries / max(seconds, 1e-9)
        typer.echo(f"{self._queries} queries in {seconds:.1f} s, {rate:.3g} a second{failed}", err=True)
        if self._failed or self._warned:
            raise typer.Exit(3)

    def _draw(self, answers: Attributions) -> None:
        """Add the pages of a block to the contact sheet, if there is one."""
        if self.sheet is None or not len(answers):
            return
        last = answers.block.first + answers.block.size - 1
        pages = answers.sheet(f", queries {answers.block.first} to {last}")
        self._pages += len(write_sheet(pages, self.sheet, self.force, after=self._pages))

    def _mean_agreement(self) -> Iterator[str]:
        """Yield a line for every two methods: how far they agree, on average over all queries."""
        for pair in map(joined, zip(*self._agreement, strict=True)):
            means = ", ".join(f"{name} {value:.3f}" for name, value in pair.means().items() if value is not None)
            yield f"{pair.first} and {pair.second}, k = {pair.k}: {means}"


def _new(answers: Attributions, said: set[str]) -> list[str]:
    """Return the notes and warnings about a block that were not said yet, and add them to those that were."""
    first, last = answers.block.first, answers.block.first + answers.block.size - 1
    lines = [*answers.notes, *(f"queries {first} to {last}: {warning}" for warning in answers.warnings)]
    new = [line for line in lines if line not in said]
    said.update(new)
    return new
