"""Combination of several measurements of a retrained model, so that one training serves all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.ground_truth import Measurement
from attrbench.contracts.task import OpenTask


@dataclass(frozen=True)
class Combined(Measurement):
    """A measurement that takes several of a retrained model, whose arrays have different names.

    Attributes:
        parts: the measurements.
    """

    parts: tuple[Measurement, ...]

    def identity(self, opened: OpenTask) -> object:
        """Return the identities of all parts, for the measurement's cache key."""
        return [part.identity(opened) for part in self.parts]

    def measure(self, denoiser: Denoiser, opened: OpenTask) -> Mapping[str, NDArray[Any]]:
        """Return the arrays of all parts by name."""
        return {name: array for part in self.parts for name, array in part.measure(denoiser, opened).items()}
