"""Option strings of methods and tasks, and other options, right and wrong, as `run` takes them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any

from pydantic import BaseModel

from attrbench.contracts.options import Options, Spec, choices_of, kinds_of
from attrbench.evaluation.requests import request_methods, request_tasks
from attrbench.plugins.registry import registry
from tests.campaign import mutation
from tests.campaign.bench import Bench
from tests.campaign.children import limited_run

VALUES = ("0", "1", "2", "3", "7", "16", "64", "0.1", "1e-3", "-1", "none", "true", "false")
FLAGS = {
    "--limit-train": VALUES,
    "--limit-queries": VALUES,
    "--seed": VALUES,
    "--batch-size": VALUES,
    "--device": ("cpu", "meta", "cuda:99", "nonsense", ""),
    "--backend": ("hooks", "vmap", "loop", "fast"),
    "--executor": ("inline", "processes:1", "processes:0", "processes:x", "processes:workers=2", "inlin"),
    "--ground-truth": ("lds", "lds:bank=no", "removal", "lds:x=1"),
}
TASK = "campaign-trainable"


def option_string(chance: random.Random, kind: str) -> str:
    """Return NAME:KEY=VALUE,... of a registered method or task, in which a part may be wrong."""
    found = registry()
    names = [TASK] if kind == "task" else found.names(kind)
    name = chance.choice(names)
    model = getattr(found, kind)(name).Options
    keys = list(model.model_fields)
    pairs = []
    for _ in range(chance.choice((0, 1, 1, 2, 3)) if keys else chance.randrange(2)):
        key = chance.choice(keys) if keys else "no"
        given = [_value(model, key, chance) for _ in range(chance.choice((1, 1, 1, 2)))]
        pairs.append(f"{key}={'|'.join(given)}")
    whole = f"{name}:{','.join(pairs)}" if pairs else name
    return mutation.text(whole, chance) if chance.random() < 0.25 else whole


def _value(model: type[BaseModel], key: str, chance: random.Random) -> str:
    if chance.random() < 0.3:
        return chance.choice((*mutation.TEXTS, *map(str, mutation.NUMBERS)))
    kinds = list(kinds_of(model.model_fields[key].annotation)) if key in model.model_fields else []
    choices = [choice for kind in kinds for choice in choices_of(kind)]
    return chance.choice([*choices, *VALUES] if choices else VALUES)


def options(bench: Bench, trial: int, chance: random.Random) -> str | None:
    """Give one command line to a dry run: it plans what was asked for, or says in one line what is wrong."""
    method, task = option_string(chance, "method"), TASK
    if chance.random() < 0.1:
        task = option_string(chance, "task")
    arguments = ["run", "-m", method, "-t", task, "--dry-run"]
    if chance.random() < 0.2:
        flag = chance.choice(sorted(FLAGS))
        arguments += [
            flag,
            mutation.text(given, chance) if (given := chance.choice(FLAGS[flag])) and chance.random() < 0.3 else given,
        ]
    folder = bench.folder / "dry"
    done = limited_run([*arguments, "--cache", f"{folder}/cache", "--out", f"{folder}/out"])
    wrong = done.fault(0, 1, 2)
    if wrong is None and done.code == 0:
        wrong = _changed(method, task)
    return wrong and f"{arguments[1:]!r}: {wrong}"


def _changed(method: str, task: str) -> str | None:
    """Return which option of accepted strings has another value than its text says."""
    found = registry()
    asked: list[tuple[Spec, Options]] = [(r.spec, r.method.options) for r in request_methods(found, [method])]
    asked += [(r.spec, r.task.options) for r in request_tasks(found, [task])]
    for spec, options in asked:
        for key, text in spec.given.items():
            if not means(text, _at(options, key)):
                return f"{key}={text} became {_at(options, key)!r}"
    return None


def _at(options: Any, key: str) -> Any:
    for part in key.split("."):
        options = options[part] if isinstance(options, Mapping) else getattr(options, part)
    return options


def means(text: str, value: Any) -> bool:
    """Return whether an option's value is what its text says."""
    if value is None:
        return text == "none"
    if isinstance(value, bool):
        return text.lower() in (
            ("true", "1", "yes", "on", "y", "t") if value else ("false", "0", "no", "off", "n", "f")
        )
    if isinstance(value, Enum):
        return text == str(value.value)
    if isinstance(value, int | float):
        try:
            exact = Decimal(text.strip().replace("_", ""))
        except InvalidOperation:
            return False
        return exact == value if isinstance(value, int) else float(exact) == value
    return text == value if isinstance(value, str) else True
