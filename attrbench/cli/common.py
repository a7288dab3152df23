"""What several verbs share: where things lie, and how progress is shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attrbench.store import default_cache

if TYPE_CHECKING:
    from rich.console import Console

    from attrbench.evaluation.progress import Advance
    from attrbench.evaluation.requests import RunSettings

RESULTS = Path("attrbench-results")

Out = Annotated[Path, typer.Option("--out", help="Folder of the records.", envvar="ATTRBENCH_OUT")]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Folder of features and whatever else is kept [default: the user's cache folder].",
        envvar="ATTRBENCH_CACHE",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Tasks = Annotated[list[str], typer.Option("--task", "-t", help="NAME or FILE.toml, with :KEY=VALUE,... or without.")]
LimitTrain = Annotated[int | None, typer.Option(help="Use only the first N training items.")]
LimitQueries = Annotated[int | None, typer.Option(help="Use only the first N queries.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of intervals, and of methods that draw (random, lissa:batch).")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Pairs of item and timestep a backward pass [default: found].")
]
Backend = Annotated[Literal["hooks", "vmap", "loop"], typer.Option(help="How per-sample gradients are computed.")]
Executor = Annotated[str, typer.Option(help="How shards are carried out.")]
GroundTruths = Annotated[
    list[str] | None,
    typer.Option("--ground-truth", help="NAME:KEY=VALUE,...: measure this one too, or a default one with options."),
]
Rerun = Annotated[bool, typer.Option("--rerun", help="Score again what a record already answers.")]
Device = Annotated[str | None, typer.Option(help="Torch device [default: cuda where there is one, else cpu].")]


def run_settings(
    out: Path, cache: Path | None, device: str | None, batch_size: int | None, backend: str, **others: Any
) -> RunSettings:
    """How to run, from what the verbs that compute gradients share and `others` of the settings."""
    from attrbench.contracts.feature import Engine
    from attrbench.evaluation.requests import RunSettings

    return RunSettings(
        out=out,
        cache=cache_folder(out, cache),
        device=default_device(device),
        engine=Engine(backend, batch_size),
        **others,
    )


def cache_folder(out: Path, given: Path | None) -> Path:
    """Return the cache folder that was asked for, or the default."""
    return default_cache.default_cache(out) if given is None else given


def default_device(given: str | None) -> str:
    """The device asked for, or the best there is."""
    if given is not None:
        return given
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def console(stderr: bool = False) -> Console:
    """A rich console; as wide as its tables need where the output is not a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 160, highlight=False, soft_wrap=not stream.isatty())


def quiet_libraries() -> None:
    """Keeps libraries' progress bars and advice out of the output. Must be called before they are imported."""
    import os

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


class TerminalReporter:
    """A progress bar a stage on a terminal, plain lines elsewhere; on standard error."""

    def __init__(self) -> None:
        self._console = console(stderr=True)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """See `attrbench.evaluation.progress.Reporter`."""
        started = time.perf_counter()
        if self._console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=self._console, transient=True) as progress:
                bar = progress.add_task(name, total=total)
                yield lambda: progress.advance(bar)
        else:
            yield _Plain(self, name, total)
        self.note(f"{name}: {time.perf_counter() - started:.1f} s")

    def note(self, line: str) -> None:
        """See `attrbench.evaluation.progress.Reporter`."""
        from rich.text import Text

        self._console.print(Text(line))


class _Plain:
    """Says at most every ten seconds how far a stage is."""

    def __init__(self, reporter: TerminalReporter, name: str, total: int) -> None:
        self._reporter, self._name, self._total = reporter, name, total
        self._done = 0
        self._said = self._started = time.perf_counter()

    def __call__(self) -> None:
        self._done += 1
        now = time.perf_counter()
        if now - self._said >= 10 and self._done < self._total:
            self._said = now
            left = (now - self._started) / self._done * (self._total - self._done)
            self._reporter.note(f"{self._name}: {self._done} of {self._total}, about {left:.0f} s left")
