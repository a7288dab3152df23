"""Options of methods and tasks, and the strings that set them: `dmin:v=4096|65536,search=hnsw`.

A method or task declares its options once, as a pydantic model; validation, help, defaults, documentation and
the fingerprint all come from that model.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from attrbench.errors import UsageError, unknown_name


class Options(BaseModel):
    """Base of every options model. Unknown names are refused; the word `none` means None where that is allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _none_is_none(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {key: None if value == "none" and cls._may_be_none(key) else value for key, value in values.items()}
        return values

    @classmethod
    def _may_be_none(cls, name: str) -> bool:
        return name in cls.model_fields and type(None) in get_args(cls.model_fields[name].annotation)


OptionsT = TypeVar("OptionsT", bound=Options)


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """What each option means: the string that stands under its declaration, read from the source only when asked."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if owner is BaseModel or not issubclass(owner, BaseModel):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        except (OSError, TypeError):  # a plugin may come without its source
            continue
        assert isinstance(body, ast.ClassDef)
        for field_, below in itertools.pairwise(body.body):
            match field_, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = inspect.cleandoc(text)
    return found


@dataclass(frozen=True)
class Spec:
    """A name and the options given to it, as the user wrote them."""

    name: str
    given: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.given:
            return self.name
        return f"{self.name}:{','.join(f'{key}={value}' for key, value in self.given.items())}"


def parse_spec(text: str) -> list[Spec]:
    """Reads `name:key=value,key=a|b` into one `Spec` for each combination of the `|` alternatives.

    A comma not followed by `key=` belongs to the value before it, so that Faiss strings such as
    `index=IVF64,Flat` need no quotes.

    Raises:
        UsageError: where the text does not have this form.
    """
    file = re.match(r"(.*?\.toml)(?=:|$)", text)  # a path may hold colons
    name, colon, tail = (file[1], *text[file.end() :].partition(":")[1:]) if file else text.partition(":")
    if not name or (colon and not tail):
        raise UsageError(f"cannot read '{text}': expected NAME or NAME:KEY=VALUE,KEY=VALUE")
    alternatives: dict[str, list[str]] = {}
    for piece in re.split(r",(?=[A-Za-z_][A-Za-z0-9_.]*=)", tail) if tail else []:
        key, equals, value = piece.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"cannot read '{piece}' in '{text}': expected KEY=VALUE")
        if key in alternatives:
            raise UsageError(f"option '{key}' is given twice in '{text}'")
        alternatives[key] = value.split("|")
    combinations = itertools.product(*alternatives.values())
    return [Spec(name, dict(zip(alternatives, values, strict=True))) for values in combinations]


def build_options(kind: str, spec: Spec, model: type[OptionsT]) -> OptionsT:
    """Validates the options of `spec` against `model`.

    Raises:
        UsageError: one line that names the option, what was wrong with it, or the nearest known name.
    """
    try:
        return model.model_validate(spec.given)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown_name(f"option of {kind} {spec.name}", option, model.model_fields) from None
        reason = first["msg"].removeprefix("Value error, ")
        at = f"{option}={spec.given[option]}: " if option in spec.given else f"{option}: " if option else ""
        raise UsageError(f"{kind} {spec.name}: {at}{reason[:1].lower()}{reason[1:]}") from None
