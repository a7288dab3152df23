"""Scales of plots: where a value lies in pixels, linear or logarithmic, and the round values that label an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

STEPS = (1, 2, 2.5, 5, 10)
"""Distances of ticks, times a power of ten."""


@dataclass(frozen=True)
class Scale:
    """A map from values to pixels.

    Attributes:
        low, high: the values at both ends; above 0 where the scale is logarithmic.
        start, end: their places in pixels.
        logarithmic: whether equal ratios take equal room.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value in pixels, with one decimal; a value beyond an end is put at that end."""
        inside = min(max(value, self.low), self.high)
        if self.logarithmic:
            part = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            part = (inside - self.low) / (self.high - self.low)
        return round(self.start + part * (self.end - self.start), 1)

    def ticks(self, count: int = 5) -> list[float]:
        """Return about `count` round values between the ends."""
        if self.logarithmic:
            return self._powers(count)
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(step * power for step in STEPS if step * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    def _powers(self, count: int) -> list[float]:
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        every = max(1, math.ceil((last - first + 1) / count))
        powers = [10.0**power for power in range(first, last + 1, every)]
        if len(powers) > 1:
            return powers
        exponents = range(first - 1, last + 1)
        finer = [factor * 10.0**power for power in exponents for factor in (1, 2, 5)]
        inside = [value for value in finer if self.low <= value <= self.high]
        return inside if len(inside) > 1 else Scale(self.low, self.high, self.start, self.end).ticks(count)


def linear(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a linear scale that holds all values, with room at both ends; from 0 on where none is negative."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or 0.5
    return Scale(0.0 if low >= 0 else low - room, high + room, start, end)


def logarithmic(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a logarithmic scale that holds all values, each above 0, with room at both ends."""
    low, high = min(values), max(values)
    return Scale(low / 1.6, high * 1.6, start, end, logarithmic=True)
