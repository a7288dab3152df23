"""The command `attrbench attribute`, which ranks the training images by their influence on a picture."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from attrbench import api
from attrbench.cli.common import (
    RESULTS,
    Backend,
    BatchSize,
    Cache,
    Debug,
    Device,
    LimitTrain,
    Out,
    console,
)
from attrbench.reports.contact_sheet import MEANING
from attrbench.reports.sheet_files import check_sheet, write_sheet
from attrbench.store.fingerprint import fingerprint
from attrbench.text import one_line

if TYPE_CHECKING:
    from attrbench.evaluation.attribute import Attribution

LONGEST = 200
"""Characters of a name or caption that the terminal shows."""


def attribute(
    method: Annotated[str, typer.Option("--method", "-m", help="NAME or NAME:KEY=VALUE,...")],
    task: Annotated[str, typer.Option("--task", "-t", help="NAME or FILE.toml, with :KEY=VALUE,... or without.")],
    image: Annotated[list[Path] | None, typer.Option(help="Picture to attribute; may be given several times.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="The picture's prompt; without --image the model draws it first.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of a picture that the model draws [default: 0].")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many training images.")] = 20,
    sheet: Annotated[
        Path | None,
        typer.Option(help="File with the pictures, by page [default: OUT/TASK/attributed-METHOD-ID.png]."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --sheet names.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    limit_train: LimitTrain = None,
    device: Device = None,
    out: Out = RESULTS,
    cache: Cache = None,
    batch_size: BatchSize = None,
    backend: Backend = "hooks",
    debug: Debug = False,
) -> None:
    """Rank the training images for a picture, and draw them on a contact sheet. Uses the same cache as `run`."""
    if sheet is not None:
        check_sheet(sheet, force, image or ())
    answer = api.attribute(
        method,
        task,
        images=image or (),
        prompts=prompt or (),
        picture_seed=seed,
        k=k,
        out=out,
        cache=cache,
        device=device,
        limit_train=limit_train,
        batch_size=batch_size,
        backend=backend,
    )
    pages = answer.sheet()
    paths = write_sheet(pages, sheet or _default_sheet(answer, out), force or sheet is None)
    notes = _notes(pages.scripts_without_font())
    if as_json:
        typer.echo(json.dumps(_document(answer, paths, notes), indent=1, allow_nan=False))
    else:
        _show(answer)
        more = f" to {paths[-1]} ({len(paths)} pages)" if len(paths) > 1 else ""
        typer.echo(f"contact sheet: {paths[0]}{more}")
    for line in (*notes, *answer.warnings):
        typer.echo(f"attrbench: {line}", err=True)
    if answer.warnings:
        raise typer.Exit(3)


def _notes(lacking: Mapping[str, str]) -> list[str]:
    """Return a line about scripts that are drawn as boxes, if there are any."""
    if not lacking:
        return []
    first = one_line(next(iter(lacking.values())))
    return [
        f"no font of this machine draws {', '.join(lacking)} (first in '{first}'), so the sheet has boxes there:"
        " install one, such as Noto"
    ]


def _default_sheet(answer: Attribution, out: Path) -> Path:
    """Return the file of the contact sheet of this question, method and task; another question has another."""
    name = "".join(c if c.isalnum() or c in "-_.=" else "-" for c in answer.method)[:80]
    shown = [answer.task, answer.method, answer.queries.fingerprint, answer.train.fingerprint]
    question = fingerprint([*shown, list(answer.ranking.ids.shape)])
    return out / answer.task_name / f"attributed-{name}-{question[:8]}.png"


def _rows(answer: Attribution, query: int) -> list[dict[str, Any]]:
    """Return a dict (rank, score, item, name, group, caption) for each training item that was found for one query.

    An item some of whose gradients were NaN or infinite has `lost` as well, their number.
    """
    train, ranking = answer.train, answer.ranking
    lost = Counter(item for split, item, _ in answer.nonfinite if split == "train")
    return [
        {
            "rank": rank,
            "score": float(score),
            "item": item,
            "name": train.names[item] if train.names else "",
            "group": train.groups[item],
            "caption": train.prompts[item],
            **({"lost": lost[item]} if item in lost else {}),
        }
        for rank, (item, score) in enumerate(zip(ranking.ids[query].tolist(), ranking.scores[query], strict=True), 1)
        if item >= 0
    ]


def _document(answer: Attribution, sheets: Sequence[Path], notes: Sequence[str]) -> dict[str, Any]:
    """Return the answer as JSON values, with the warnings that the terminal shows."""
    queries = answer.queries
    return {
        "method": answer.method,
        "summary": answer.summary,
        "task": answer.task,
        "warnings": answer.warnings,
        "notes": list(notes),
        "nonfinite": [list(lost) for lost in answer.nonfinite],
        "sheet": str(sheets[0]),
        "sheets": [str(sheet) for sheet in sheets],
        "queries": [
            {"name": queries.names[query], "prompt": queries.prompts[query], "ranking": _rows(answer, query)}
            for query in range(len(queries))
        ],
    }


def _show(answer: Attribution) -> None:
    """Print a table of each query's ranked training items; text of data sets is never interpreted as markup."""
    terminal = console()
    terminal.print(Text(f"{answer.method} on {answer.task}: {one_line(answer.summary)}"))
    terminal.print(Text(MEANING))
    for query in range(len(answer.queries)):
        rows = _rows(answer, query)
        columns = [
            c
            for c in ("rank", "score", "lost", "item", "name", "group", "caption")
            if any(row.get(c, "") != "" for row in rows)
        ]
        prompt = answer.queries.prompts[query]
        title = answer.queries.names[query] + (
            f": {prompt}" if prompt and prompt not in answer.queries.names[query] else ""
        )
        table = Table(title=Text(_cut(title)), box=box.SIMPLE_HEAD, title_justify="left")
        for column in columns:
            table.add_column(
                column, justify="right" if column in ("rank", "score", "lost", "item") else "left", overflow="fold"
            )
        for row in rows:
            cells = {"lost": 0, **row, "score": f"{row['score']:.6g}"}
            table.add_row(*(Text(_cut(cells[column])) for column in columns))
        terminal.print(table)
        if not rows:
            terminal.print(Text("not ranked: all training items have the same score\n"))


def _cut(text: object) -> str:
    """Return a text on one line, with an ellipsis after `LONGEST` characters; JSON has the whole."""
    line = one_line(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
