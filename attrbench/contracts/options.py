"""Options of methods and tasks as pydantic models, and the strings that set them: `dmin:v=4096|65536,search=hnsw`.

A method or task declares its options once, as a pydantic model; validation, help, defaults, documentation and
the fingerprint all come from that model.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from attrbench.errors import UsageError, unknown_name
from attrbench.text import plain


class Options(BaseModel):
    """Base class of the options of methods and tasks: refuses unknown names, reads `none` as None where allowed.

    The string under an option's declaration is its documentation.

    Attributes:
        needs: option -> what it needs of others to have an effect, as one writes it on the command line:
            `search=hnsw`; `hessian=ggn|hessian`; `v`, which must not be none; several with commas. An option that is
            given where this does not hold is refused, even at its default. Subclasses inherit: an entry takes the
            place of the base's for that option, and an empty one lifts it.
        aliases: old name of an option -> its name now; `build_options` takes both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    needs: ClassVar[Mapping[str, str]] = {}
    aliases: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "needs" in cls.model_fields:
            raise TypeError(f"{cls.__qualname__}.needs is declared as an option: declare it as a ClassVar")
        for option, needed in needs_of(cls).items():
            for name in (option, *(need.option for need in needed)):
                if name not in cls.model_fields:
                    raise TypeError(f"{cls.__qualname__}.needs: there is no option '{name}'")
            for need in needed:
                choices = [choices_of(kind) for kind in kinds_of(cls.model_fields[need.option].annotation)]
                if all(choices) and (unknown := set(need.values).difference(*choices)):
                    raise TypeError(f"{cls.__qualname__}.needs: {need.option} is never {min(unknown)}")

    @model_validator(mode="after")
    def _given_has_an_effect(self) -> Self:
        for option, needed in needs_of(type(self)).items():
            unmet = next((need for need in needed if not need.holds(self)), None)
            if unmet is not None and option in self.model_fields_set:
                given = f"{option}={as_written(getattr(self, option))}"
                raise ValueError(f"{given}: has an effect with {unmet} only, not with {unmet.found(self)}")
        return self

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


def as_written(value: object) -> str:
    """Return an option's value as text, as the user writes it on the command line, such as `true` or `none`."""
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value.value if isinstance(value, Enum) else value)


def kinds_of(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation allows: the members of its unions, with `Annotated` removed."""
    if get_origin(annotation) is Annotated:
        yield from kinds_of(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from kinds_of(part)
    else:
        yield annotation


def choices_of(kind: Any) -> list[str]:
    """Return all values of a type that has few (Literal, Enum, bool, None) as command-line text; else an empty list."""
    if get_origin(kind) is Literal:
        return [as_written(value) for value in get_args(kind)]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [as_written(value) for value in kind]
    return {bool: ["true", "false"], NoneType: ["none"]}.get(kind, [])


@dataclass(frozen=True)
class Need:
    """A condition on another option, such as `search=hnsw`, without which an option has no effect.

    Attributes:
        option: the other one.
        values: those of its values that will do; without any, all but `none` will.
    """

    option: str
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.option}={'|'.join(self.values)}" if self.values else self.option

    def holds(self, options: Options) -> bool:
        """Return whether the given options meet this condition on the other option."""
        value = as_written(getattr(options, self.option))
        return value in self.values if self.values else value != "none"

    def found(self, options: Options) -> str:
        """Return the other option's present value as `NAME=VALUE`, for the error message."""
        return f"{self.option}={as_written(getattr(options, self.option))}"


def needs_of(model: type[BaseModel]) -> dict[str, tuple[Need, ...]]:
    """Return option -> its conditions on other options, as an options model and its bases declare them in `needs`."""
    declared: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        declared |= vars(owner).get("needs", {})
    return {option: tuple(map(_need, text.split(","))) for option, text in declared.items() if text}


def _need(text: str) -> Need:
    option, _, values = text.partition("=")
    return Need(option, tuple(values.split("|")) if values else ())


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return option -> documentation of an options model: the string under each option's declaration.

    pydantic drops the description of an option that a subclass declares again with another default only; the nearest
    base that documents it is asked then.
    """
    texts: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if issubclass(owner, BaseModel):
            texts |= {name: option.description for name, option in owner.model_fields.items() if option.description}
    return texts


@dataclass(frozen=True)
class Spec:
    """The name of a method or task with the options given to it, as the user wrote them (`NAME:KEY=VALUE,...`)."""

    name: str
    given: dict[str, str] = field(default_factory=dict)

    def renamed(self, aliases: Mapping[str, str]) -> Spec:
        """Return the spec with old option names replaced by the current ones, so that a method has one label."""
        return Spec(self.name, {aliases.get(key, key): value for key, value in self.given.items()})

    def __str__(self) -> str:
        if not self.given:
            return self.name
        return f"{self.name}:{','.join(f'{key}={value}' for key, value in self.given.items())}"


def parse_spec(text: str) -> list[Spec]:
    """Parse `name:key=value,key=a|b` into a list with one `Spec` for each combination of the `|` alternatives.

    A comma not followed by `key=` belongs to the value before it, so that Faiss strings such as
    `index=IVF64,Flat` need no quotes.

    Raises:
        UsageError: where the text does not have this form.
    """
    if "\0" in text:
        raise UsageError(f"cannot read '{plain(text)}': it holds a NUL character")
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
    """Return the options that a user gave in `spec`, validated as an instance of the options model.

    Raises:
        UsageError: one line that names the option, what was wrong with it, or the nearest known name.
    """
    twice = [old for old, new in model.aliases.items() if old in spec.given and new in spec.given]
    if twice:
        raise UsageError(f"{kind} {spec.name}: {twice[0]} is the old name of {model.aliases[twice[0]]}; give it once")
    spec = spec.renamed(model.aliases)
    try:
        return model.model_validate(spec.given)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown_name(f"option of {kind} {spec.name}", option, model.model_fields) from None
        reason = first["msg"]
        if first["type"] == "value_error":  # a validator's own words; an option may be a capital letter
            reason = reason.removeprefix("Value error, ")
        else:
            reason = f"{reason[:1].lower()}{reason[1:]}"
        at = f"{option}={spec.given[option]}: " if option in spec.given else f"{option}: " if option else ""
        raise UsageError(f"{kind} {spec.name}: {at}{reason}") from None
