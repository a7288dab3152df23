"""Values that every option of a method is tried with, as they would come from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from attrbench.contracts.options import Options, choices_of, kinds_of

NUMBERS: dict[Any, tuple[str, ...]] = {int: ("-1", "0"), float: ("-1", "0", "nan", "inf")}
"""Nothing large: an option may be a length, and then it is memory."""


@dataclass(frozen=True)
class Probe:
    """One option at one value.

    Attributes:
        option, value: as in `option=value`.
        declared: whether the declaration says that the value is allowed, so that it must be taken.
    """

    option: str
    value: str
    declared: bool

    def __str__(self) -> str:
        return f"{self.option}={self.value}"


def probes(model: type[Options]) -> Iterator[Probe]:
    """Every choice of choices, both of flags, `none` where that is allowed, numbers at the edge of sense."""
    for name, field in model.model_fields.items():
        kinds = list(kinds_of(field.annotation))
        for kind in kinds:
            choices = choices_of(kind)
            yield from (Probe(name, choice, True) for choice in choices)
            yield from (Probe(name, number, False) for number in NUMBERS.get(kind, ()))
        if NUMBERS.keys() & set(kinds) and str not in kinds:
            yield Probe(name, "many", False)
