"""Progress reporters: show the stages of a run on a terminal, and notify plugins."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from attrbench.reports.printed import WIDE
from attrbench.text import plain

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry

Advance = Callable[[], None]


class Reporter(Protocol):
    """Protocol of progress reporters, which show the stages of a run and lines of text."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """Return a context manager for a stage of `total` steps, which yields a function to call after each step."""

    def note(self, line: str) -> None:
        """Show one line of text to the user."""


class Silent:
    """A progress reporter that shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """Show no progress; yield a function to call after each step, which does nothing."""
        yield lambda: None

    def note(self, line: str) -> None:
        """Ignore the line of text."""


class _Console(Console):
    """A rich console that leaves it to the command line what a pipe that nobody reads means."""

    def on_broken_pipe(self) -> None:
        """Raise the error again; rich would exit with code 1."""
        raise BrokenPipeError


def console(stderr: bool = False) -> Console:
    """Return a rich console on standard output or error, `WIDE` columns wide where that is not a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    return _Console(
        file=stream,
        width=None if terminal else WIDE,
        highlight=False,
        soft_wrap=not terminal,
        force_jupyter=False,  # a notebook gets the same plain lines
    )


class TerminalReporter:
    """A reporter that shows a progress bar for each stage on a terminal, or plain lines, on standard error.

    Args:
        at_work: returns a line that stands below a stage's bar, about what workers are at; asked once a second.
    """

    def __init__(self, at_work: Callable[[], str] | None = None) -> None:
        self._console = console(stderr=True)
        self._at_work = at_work

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """Show a stage's progress as a bar or as lines, and at its end the seconds it took."""
        started = time.perf_counter()
        if sys.stderr.isatty():  # a notebook's kernel asks rich for colors, and shows no bars
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with _Panel(self._at_work, *columns, console=self._console, transient=True) as progress:
                bar = progress.add_task(name, total=total)
                yield lambda: progress.advance(bar)
        else:
            yield _PlainAdvance(self, name, total)
        self.note(f"{name}: {time.perf_counter() - started:.1f} s")

    def note(self, line: str) -> None:
        """Print one line of text on standard error."""
        self._console.print(Text(plain(line)))


class _Panel(Progress):
    """A progress bar with a line about workers below it, where there is one."""

    def __init__(self, at_work: Callable[[], str] | None, *columns: ProgressColumn, **options: Any) -> None:
        self._at_work, self._line, self._asked = at_work, "", -math.inf
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the bar and the line."""
        yield from super().get_renderables()
        if self._at_work is not None and time.monotonic() - self._asked >= 1:
            self._line, self._asked = self._at_work(), time.monotonic()
        if self._line:
            yield Text(self._line, style="dim", overflow="ellipsis", no_wrap=True)


class _PlainAdvance:
    """A step counter that prints a stage's progress and time left as a line, at most every ten seconds."""

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


class Observed:
    """A reporter that also calls the observer hooks of plugins; their exceptions are logged, never raised."""

    def __init__(self, inner: Reporter, registry: Registry) -> None:
        self._inner = inner
        self._registry = registry

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """Show a stage by the inner reporter, and tell plugins of its start, end and seconds."""
        self.tell("stage_started", stage=name, total=total)
        started = time.perf_counter()
        with self._inner.stage(name, total) as advance:
            yield advance
        self.tell("stage_finished", stage=name, seconds=time.perf_counter() - started)

    def note(self, line: str) -> None:
        """Pass one line of text to the inner reporter, which shows it."""
        self._inner.note(line)

    def tell(self, hook: str, **arguments: object) -> None:
        """Call one observer hook of every plugin; exceptions are noted, never raised."""
        manager = self._registry.manager
        plugins = manager.list_name_plugin()
        for name, plugin in plugins:
            others = [other for _, other in plugins if other is not None and other is not plugin]
            try:
                manager.subset_hook_caller(hook, others)(**arguments)
            except Exception as error:
                self._inner.note(f"plugin {name}: its {hook} raised {type(error).__name__}: {error}")
