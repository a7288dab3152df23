"""The command `attrbench attribute`, which ranks the training images by their influence on a picture."""

from __future__ import annotations

import json
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
from attrbench.reports.contact_sheet import write_sheet
from attrbench.text import one_line

if TYPE_CHECKING:
    from attrbench.evaluation.attribute import Attribution


def attribute(
    method: Annotated[str, typer.Option("--method", "-m", help="NAME or NAME:KEY=VALUE,...")],
    task: Annotated[str, typer.Option("--task", "-t", help="NAME or FILE.toml, with :KEY=VALUE,... or without.")],
    image: Annotated[list[Path] | None, typer.Option(help="Picture to attribute; may be given several times.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="The picture's prompt; without --image the model draws it first.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of a picture that the model draws [default: 0].")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many training images.")] = 20,
    sheet: Annotated[
        Path | None, typer.Option(help="PNG with the pictures [default: OUT/TASK/attributed-METHOD-ID.png].")
    ] = None,
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
    if sheet is None:
        name = "".join(c if c.isalnum() or c in "-_.=" else "-" for c in answer.method)[:80]
        sheet = out / answer.task_name / f"attributed-{name}-{answer.queries.fingerprint[:8]}.png"
    write_sheet(answer.picture(), sheet)
    if as_json:
        typer.echo(json.dumps({"method": answer.method, "task": answer.task, **_document(answer, sheet)}, indent=1))
    else:
        _show(answer)
        typer.echo(f"contact sheet: {sheet}")
    if answer.nonfinite:
        split, item, timestep = answer.nonfinite[0]
        typer.echo(
            f"attrbench: {len(answer.nonfinite)} gradients were NaN or infinite and count as zero, first that of"
            f" {split} item {item} at timestep {timestep}",
            err=True,
        )
        raise typer.Exit(3)


def _rows(answer: Attribution, query: int) -> list[dict[str, Any]]:
    """Return a dict (rank, score, item, name, group, caption) for each training item that was found for one query."""
    train, ranking = answer.train, answer.ranking
    return [
        {
            "rank": rank,
            "score": float(score),
            "item": item,
            "name": train.names[item] if train.names else "",
            "group": train.groups[item],
            "caption": train.prompts[item],
        }
        for rank, (item, score) in enumerate(zip(ranking.ids[query].tolist(), ranking.scores[query], strict=True), 1)
        if item >= 0
    ]


def _document(answer: Attribution, sheet: Path) -> dict[str, Any]:
    queries = answer.queries
    return {
        "sheet": str(sheet),
        "queries": [
            {"name": queries.names[query], "prompt": queries.prompts[query], "ranking": _rows(answer, query)}
            for query in range(len(queries))
        ],
    }


def _show(answer: Attribution) -> None:
    """Print a table of each query's ranked training items; text of data sets is never interpreted as markup."""
    terminal = console()
    for query in range(len(answer.queries)):
        rows = _rows(answer, query)
        columns = [
            c for c in ("rank", "score", "item", "name", "group", "caption") if any(row[c] != "" for row in rows)
        ]
        prompt = answer.queries.prompts[query]
        title = answer.queries.names[query] + (
            f": {prompt}" if prompt and prompt not in answer.queries.names[query] else ""
        )
        table = Table(title=Text(one_line(title)), box=box.SIMPLE_HEAD, title_justify="left")
        for column in columns:
            table.add_column(
                column, justify="right" if column in ("rank", "score", "item") else "left", overflow="fold"
            )
        for row in rows:
            cells = {**row, "score": f"{row['score']:.6g}"}
            table.add_row(*(Text(one_line(cells[column])) for column in columns))
        terminal.print(table)
