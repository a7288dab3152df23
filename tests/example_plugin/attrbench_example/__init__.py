"""An example plugin for attrbench: the method `mean-color` and the task `stripes-mini`."""

from collections.abc import Callable
from typing import Any

from attrbench import hookimpl
from attrbench.contracts.method import Method
from attrbench.contracts.task import Task
from attrbench_example.mean_color import MeanColor
from attrbench_example.stripes import StripesMini


@hookimpl
def register_methods(register: Callable[[type[Method[Any]]], None]) -> None:
    """Registers the method."""
    register(MeanColor)


@hookimpl
def register_tasks(register: Callable[[type[Task[Any]]], None]) -> None:
    """Registers the task."""
    register(StripesMini)
