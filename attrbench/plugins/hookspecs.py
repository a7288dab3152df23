"""The hooks that a plugin may implement. Each takes a `register` function or observes a run; none returns a value.

Registering imports nothing: `register(name, summary, "package.module:Class")` names the class, and its module is
imported when it is first asked for, so that listing what there is stays fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from attrbench.contracts.record import Record

hookspec = pluggy.HookspecMarker("attrbench")
hookimpl = pluggy.HookimplMarker("attrbench")

Register = Callable[[str, str, str], None]
"""Takes a name, a line that says what it is, and where its class is: `package.module:Class`."""


@hookspec
def register_methods(register: Register) -> None:
    """Register methods (attrbench.contracts.method)."""


@hookspec
def register_tasks(register: Register) -> None:
    """Register tasks (attrbench.contracts.task)."""


@hookspec
def register_metrics(register: Register) -> None:
    """Register metrics (attrbench.contracts.metric)."""


@hookspec
def register_executors(register: Register) -> None:
    """Register executors, places where jobs run (attrbench.contracts.executor)."""


@hookspec
def register_ground_truths(register: Register) -> None:
    """Register ground truths, what retraining says (attrbench.contracts.ground_truth)."""


@hookspec
def register_model_families(register: Register) -> None:
    """Register model families, kinds of diffusers folders that can be opened (attrbench.contracts.model_family)."""


@hookspec
def register_preparations(register: Register) -> None:
    """Register data sets that can be put together (attrbench.contracts.dataset_builder)."""


@hookspec
def stage_started(stage: str, total: int) -> None:
    """A stage of a run begins; `total` is its number of steps."""


@hookspec
def stage_finished(stage: str, seconds: float) -> None:
    """A stage of a run ended."""


@hookspec
def record_written(record: Record, path: Path) -> None:
    """A record was written to `path`."""
