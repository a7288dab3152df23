"""The methods that ship with attrbench, registered like anybody's: one module a method."""

from collections.abc import Callable
from typing import Any

from attrbench import hookimpl
from attrbench.method import Method
from attrbench_methods.dmin import DMin
from attrbench_methods.grad_dot import GradDot
from attrbench_methods.pixel import Pixel
from attrbench_methods.random import Random
from attrbench_methods.ssim import SSIM
from attrbench_methods.trak import DTRAK, TRAK, RelativeIF, RenormIF


@hookimpl
def register_methods(register: Callable[[type[Method[Any]]], None]) -> None:
    """Registers every method of this package."""
    for method in (Random, Pixel, SSIM, GradDot, DMin, TRAK, DTRAK, RelativeIF, RenormIF):
        register(method)
