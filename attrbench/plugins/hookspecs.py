"""The hooks that a plugin may implement, to register classes under names or to observe a run.

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
    """Register a plugin's attribution methods by name (attrbench.contracts.method)."""


@hookspec
def register_tasks(register: Register) -> None:
    """Register a plugin's tasks: model, training set and queries to evaluate on (attrbench.contracts.task)."""


@hookspec
def register_metrics(register: Register) -> None:
    """Register a plugin's metrics, which evaluate rankings (attrbench.contracts.metric)."""


@hookspec
def register_executors(register: Register) -> None:
    """Register a plugin's executors, which run the jobs of a run somewhere (attrbench.contracts.executor)."""


@hookspec
def register_ground_truths(register: Register) -> None:
    """Register a plugin's ground truths, measured by retraining models (attrbench.contracts.ground_truth)."""


@hookspec
def register_model_families(register: Register) -> None:
    """Register a plugin's model families, which load diffusers folders (attrbench.contracts.model_family)."""


@hookspec
def register_preparations(register: Register) -> None:
    """Register a plugin's data sets for `attrbench prepare` to build (attrbench.contracts.dataset_builder)."""


@hookspec
def register_reports(register: Register) -> None:
    """Register a plugin's reports, which `attrbench report` makes of records (attrbench.contracts.report)."""


@hookspec
def stage_started(stage: str, total: int) -> None:
    """React to the beginning of a stage of a run, such as retraining; `total` is its number of steps."""


@hookspec
def stage_finished(stage: str, seconds: float) -> None:
    """React to the end of a stage of a run, which took `seconds`."""


@hookspec
def record_written(record: Record, path: Path) -> None:
    """React to the record of one method's run on a task having been written to `path`."""
