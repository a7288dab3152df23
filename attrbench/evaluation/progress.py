"""What a run tells the person who waits for it. The command line implements it; tests may stay silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry

Advance = Callable[[], None]


class Reporter(Protocol):
    """Shows stages as they go."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """A stage of `total` steps; the context gives a function to call after each."""

    def note(self, line: str) -> None:
        """One line of plain text."""


class Silent:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """See `Reporter`."""
        yield lambda: None

    def note(self, line: str) -> None:
        """See `Reporter`."""


class Observed:
    """A reporter that also tells the plugins' observers, whose faults are noted and never stop a run."""

    def __init__(self, inner: Reporter, registry: Registry) -> None:
        self._inner = inner
        self._registry = registry

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """See `Reporter`."""
        self.tell("stage_started", stage=name, total=total)
        started = time.perf_counter()
        with self._inner.stage(name, total) as advance:
            yield advance
        self.tell("stage_finished", stage=name, seconds=time.perf_counter() - started)

    def note(self, line: str) -> None:
        """See `Reporter`."""
        self._inner.note(line)

    def tell(self, hook: str, **arguments: object) -> None:
        """Calls one observer hook of every plugin, each on its own."""
        manager = self._registry.manager
        plugins = manager.list_name_plugin()
        for name, plugin in plugins:
            others = [other for _, other in plugins if other is not None and other is not plugin]
            try:
                manager.subset_hook_caller(hook, others)(**arguments)
            except Exception as error:
                self._inner.note(f"plugin {name}: its {hook} raised {type(error).__name__}: {error}")
