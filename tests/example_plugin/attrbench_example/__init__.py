"""An example plugin for attrbench: a method, a task, a ground truth and a model family."""

from collections.abc import Callable
from typing import Any

from attrbench import hookimpl
from attrbench.contracts.ground_truth import GroundTruth
from attrbench.contracts.method import Method
from attrbench.contracts.task import Task
from attrbench_example.left_out_color import LeftOutColor
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


@hookimpl
def register_ground_truths(register: Callable[[type[GroundTruth[Any]]], None]) -> None:
    """Registers the ground truth."""
    register(LeftOutColor)


@hookimpl
def register_model_families(register: Callable[[str, str, str], None]) -> None:
    """Registers the family."""
    register("dit", "class-conditional diffusion transformer over latents", "attrbench_example.dit:DiT")
