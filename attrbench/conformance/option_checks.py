"""The conformance check of a method's options: each is documented, and no value causes a crash or NaN scores."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from attrbench.conformance.check_report import Finding, failed, passed
from attrbench.conformance.checked_method import Subject
from attrbench.conformance.fault import one_line
from attrbench.conformance.option_probes import Probe, probes
from attrbench.conformance.score_comparison import scores_of
from attrbench.conformance.toy_task import FEW_QUERIES, FEW_TRAIN
from attrbench.conformance.workbench import Features
from attrbench.contracts.method import ExhaustiveScorer
from attrbench.contracts.options import Options, Spec, build_options, meanings, needs_of
from attrbench.errors import AttrbenchError, UsageError
from attrbench.evaluation.requests import MethodRequest

PATIENCE = 60
"""Estimated seconds that may be spent on trying values; at least three values are tried."""


@dataclass
class _Tried:
    """Counts of the option values that were refused, worked or were not tried, and the problems of the others."""

    refused: int = 0
    worked: int = 0
    left: int = 0
    problems: list[str] = field(default_factory=list)


def options(subject: Subject) -> Finding:
    """Check that every option is documented, and that every value gives scores or is refused."""
    check, model = "options", subject.method.Options
    silent = sorted(_undocumented(model))
    if silent:
        return failed(
            check,
            f"without a meaning: {', '.join(silent)}",
            "write a string under each field of Options; `attrbench list --options` shows it",
        )
    if _takes_anything(subject):
        return failed(check, "an option that does not exist is taken", "leave extra='forbid' in Options.model_config")
    tried = _tried(subject)
    if tried.problems:
        more = f" (and {len(tried.problems) - 4} more)" if len(tried.problems) > 4 else ""
        return failed(
            check,
            f"options not validated: {'; '.join(tried.problems[:4])}{more}",
            "bound each option (Field(ge=..., allow_inf_nan=False)), or raise UsageError in check()",
        )
    result = f"{len(model.model_fields)} documented; {tried.refused} other values are refused, {tried.worked} work"
    if tried.left:
        result += f", {tried.left} were not tried: a run takes {subject.seconds:.1f} s (Method.quick)"
    return passed(check, result)


def _undocumented(model: type[Options]) -> set[str]:
    try:
        for owner in model.__mro__[: model.__mro__.index(Options)]:
            inspect.getsource(owner)
    except (OSError, TypeError):  # a plugin may come without its source; then nothing can be told
        return set()
    return model.model_fields.keys() - {name for name, text in meanings(model).items() if text}


def _takes_anything(subject: Subject) -> bool:
    spec = Spec(subject.request.spec.name, {**subject.request.spec.given, "no_such_option": "1"})
    try:
        build_options("method", spec, subject.method.Options)
    except UsageError:
        return False
    return True


def _tried(subject: Subject) -> _Tried:
    """Run the method with each option value in turn, and return how many worked, were refused or caused problems."""
    tried = _Tried()
    requests = _accepted(subject, tried)
    affordable = requests[: max(3, int(PATIENCE / subject.seconds))]
    tried.left = len(requests) - len(affordable)
    base, *others = _features(subject, [subject.fresh(), *(request for _, request in affordable)])
    usual, _ = _without_scores(base)
    for (probe, _), features in zip(affordable, others, strict=True):
        bad, problem = _without_scores(features)
        if bad is not None and (bad if usual is None else bad & ~usual).any():
            tried.problems.append(f"{probe}: {bad.sum()} of {bad.size} scores are NaN or infinite")
        elif isinstance(problem, AttrbenchError):
            tried.refused += 1
        elif problem is not None:
            tried.problems.append(f"{probe}: {one_line(problem)}")
        else:
            tried.worked += 1
    return tried


def _accepted(subject: Subject, tried: _Tried) -> list[tuple[Probe, MethodRequest]]:
    """Return (probe, request) for each value that validation accepts; duplicates removed, undeclared values first."""
    requests: dict[str, tuple[Probe, MethodRequest]] = {}
    own = repr(subject.method.options)  # JSON would have one word for NaN, infinity and None
    for probe in sorted(probes(subject.method.Options), key=lambda probe: probe.declared):
        try:
            request = _request(subject, probe)
        except AttrbenchError:
            tried.refused += 1
        except Exception as error:
            tried.problems.append(f"{probe}: {one_line(error)}")
        else:
            if (key := repr(request.method.options)) != own:
                requests.setdefault(key, (probe, request))
    return list(requests.values())


def _request(subject: Subject, probe: Probe) -> MethodRequest:
    """Return a request of the method with one option value, and with other options that this option requires."""
    kind: type[Any] = type(subject.method)
    needs = needs_of(kind.Options).get(probe.option, ())
    needed = {need.option: need.values[0] for need in needs if need.values and not need.holds(subject.method.options)}
    spec = Spec(subject.request.spec.name, {**needed, **subject.request.spec.given, probe.option: probe.value})
    if probe.declared:
        _refuse_unreachable(kind.Options, spec, probe)
    method = kind(build_options("method", spec, kind.Options))
    method.check(FEW_TRAIN)
    method.features()
    return MethodRequest(spec, method)


def _refuse_unreachable(model: type[Options], spec: Spec, probe: Probe) -> None:
    """Raise ValueError if an option allows a value that is not a string, which the command line can't pass."""
    try:
        model.model_validate(spec.given)
    except ValidationError as error:
        if any(part["loc"] == (probe.option,) and part["type"] in ("literal_error", "enum") for part in error.errors()):
            raise ValueError("the command line gives strings, and this choice is none") from None
    except AttrbenchError:
        return


def _features(subject: Subject, requests: Sequence[MethodRequest]) -> list[Features | Exception]:
    """Compute the features for each request in one shared run, or one by one if that fails; exceptions are returned."""
    bench = subject.bench
    settings = bench.settings("options", limit_train=FEW_TRAIN, limit_queries=FEW_QUERIES)
    try:
        return bench.features_of_many(requests, settings)
    except Exception:
        return [_alone(subject, request) for request in requests]


def _alone(subject: Subject, request: MethodRequest) -> Features | Exception:
    bench = subject.bench
    try:
        return bench.features(request, bench.settings("options", limit_train=FEW_TRAIN, limit_queries=FEW_QUERIES))
    except Exception as error:
        return error


def _without_scores(features: Features | Exception) -> tuple[NDArray[np.bool_] | None, Exception | None]:
    """Score features: return where the [m, n] scores are NaN or infinite, or the exception that was raised instead."""
    if isinstance(features, Exception):
        return None, features
    try:
        scorer = features.fit()
        scores = scores_of(scorer, features.query, features.train.count)
    except Exception as error:
        return None, error
    missing = np.isneginf(scores) & (not isinstance(scorer, ExhaustiveScorer))  # a search may find fewer than all
    return ~np.isfinite(scores) & ~missing, None
