"""attrbench: compare training-data attribution methods on diffusion models.

The functions `run`, `tune`, `attribute`, `attribute_blocks`, `leaderboard`, `report`, `read_records`, `open_task` and
`check` do what the command line does; `evidence_map` shows where in a picture a score comes from. `Method`, `Task`,
`Metric` and the other classes are the contracts that plugins fulfill. Each name is loaded when it is first used, so
that importing this package imports neither torch nor NumPy nor pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attrbench.version import __version__

if TYPE_CHECKING:
    from attrbench.api import check, leaderboard, open_task, read_records, run, tune
    from attrbench.attribution import attribute, attribute_blocks
    from attrbench.contracts.executor import Executor
    from attrbench.contracts.feature import Feature
    from attrbench.contracts.ground_truth import GroundTruth
    from attrbench.contracts.method import Method
    from attrbench.contracts.metric import Metric
    from attrbench.contracts.model_family import ModelFamily
    from attrbench.contracts.options import Options
    from attrbench.contracts.report import Report
    from attrbench.contracts.task import Task
    from attrbench.evidence import evidence_map
    from attrbench.plugins.hookspecs import hookimpl
    from attrbench.reporting import report

__all__ = [
    "Executor",
    "Feature",
    "GroundTruth",
    "Method",
    "Metric",
    "ModelFamily",
    "Options",
    "Report",
    "Task",
    "__version__",
    "attribute",
    "attribute_blocks",
    "check",
    "evidence_map",
    "hookimpl",
    "leaderboard",
    "open_task",
    "read_records",
    "report",
    "run",
    "tune",
]

_MODULES = {
    "Executor": "attrbench.contracts.executor",
    "Feature": "attrbench.contracts.feature",
    "GroundTruth": "attrbench.contracts.ground_truth",
    "Method": "attrbench.contracts.method",
    "Metric": "attrbench.contracts.metric",
    "ModelFamily": "attrbench.contracts.model_family",
    "Options": "attrbench.contracts.options",
    "Report": "attrbench.contracts.report",
    "Task": "attrbench.contracts.task",
    "attribute": "attrbench.attribution",
    "attribute_blocks": "attrbench.attribution",
    "check": "attrbench.api",
    "evidence_map": "attrbench.evidence",
    "hookimpl": "attrbench.plugins.hookspecs",
    "leaderboard": "attrbench.api",
    "open_task": "attrbench.api",
    "read_records": "attrbench.api",
    "report": "attrbench.reporting",
    "run": "attrbench.api",
    "tune": "attrbench.api",
}
"""Where each public name is defined."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'attrbench' has no attribute '{name}'")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
