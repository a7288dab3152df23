"""An example plugin for attrbench: the method `mean-colour` and the task `stripes-mini`."""

from collections.abc import Callable
from typing import Any

from attrbench import hookimpl
from attrbench.method import Method
from attrbench.task import Task
from attrbench_example.mean_colour import MeanColour
from attrbench_example.stripes import StripesMini


@hookimpl
def register_methods(register: Callable[[type[Method[Any]]], None]) -> None:
    """Registers the method."""
    register(MeanColour)


@hookimpl
def register_tasks(register: Callable[[type[Task[Any]]], None]) -> None:
    """Registers the task."""
    register(StripesMini)
