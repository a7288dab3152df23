"""Values that every option of a method is tried with, as they would come from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from attrbench.options import Options, as_written

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
        kinds = list(_kinds(field.annotation))
        for kind in kinds:
            choices = _choices(kind)
            yield from (Probe(name, choice, True) for choice in choices)
            yield from (Probe(name, number, False) for number in NUMBERS.get(kind, ()))
        if NUMBERS.keys() & set(kinds) and str not in kinds:
            yield Probe(name, "many", False)


def _choices(kind: Any) -> list[str]:
    """All values of a kind that has few."""
    if get_origin(kind) is Literal:
        return [as_written(value) for value in get_args(kind)]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [as_written(value) for value in kind]
    return {bool: ["true", "false"], NoneType: ["none"]}.get(kind, [])


def _kinds(annotation: Any) -> Iterator[Any]:
    """The members of unions, without annotations."""
    if get_origin(annotation) is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _kinds(part)
    else:
        yield annotation
