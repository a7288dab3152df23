"""Generation of the values with which every option of a method is tried, as command-line strings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from attrbench.contracts.options import Options, choices_of, kinds_of

NUMBERS: dict[Any, tuple[str, ...]] = {int: ("-1", "0"), float: ("-1", "0", "nan", "inf")}
"""Edge values for numeric options; none is large, because an option may be a length and take memory."""


@dataclass(frozen=True)
class Probe:
    """One value to try for one option of a checked method.

    Attributes:
        option, value: as in `option=value`.
        declared: whether the option's type allows the value, so that it must be accepted.
    """

    option: str
    value: str
    declared: bool

    def __str__(self) -> str:
        return f"{self.option}={self.value}"


def probes(model: type[Options]) -> Iterator[Probe]:
    """Yield the values to try for each option: all choices and flags, `none` if allowed, edge values of numbers."""
    for name, field in model.model_fields.items():
        kinds = list(kinds_of(field.annotation))
        for kind in kinds:
            choices = choices_of(kind)
            yield from (Probe(name, choice, True) for choice in choices)
            yield from (Probe(name, number, False) for number in NUMBERS.get(kind, ()))
        if NUMBERS.keys() & set(kinds) and str not in kinds:
            yield Probe(name, "many", False)
