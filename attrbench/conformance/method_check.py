"""The run of all conformance checks on one method; an exception fails only the check that it occurs in."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from attrbench.conformance import repeat_checks as repeating
from attrbench.conformance import score_checks as scoring
from attrbench.conformance import size_checks as bookkeeping
from attrbench.conformance.check_report import Finding, Report, failed, findings_of, passed
from attrbench.conformance.checked_method import Subject
from attrbench.conformance.fault import one_line
from attrbench.conformance.option_checks import options
from attrbench.conformance.toy_task import QUERIES, TRAIN
from attrbench.conformance.workbench import Bench
from attrbench.contracts.options import Spec, build_options, needs_of
from attrbench.errors import Unavailable
from attrbench.evaluation.devices import torch_device
from attrbench.evaluation.requests import MethodRequest
from attrbench.plugins.registry import Registry

CHECKS: tuple[Callable[[Subject], Finding], ...] = (
    bookkeeping.features,
    scoring.finite,
    scoring.top,
    scoring.permutation,
    scoring.duplicates,
    scoring.sign,
    repeating.batches,
    repeating.repeats,
    bookkeeping.storage,
    bookkeeping.one_item,
    bookkeeping.record,
    options,
)
NAMES = ("runs", *("one-item" if check is bookkeeping.one_item else check.__name__ for check in CHECKS))
PAGE = "docs/how-to/check.md"


def check_method(
    registry: Registry,
    request: MethodRequest,
    device: str = "cpu",
    tell: Callable[[Finding], None] = lambda finding: None,
) -> Report:
    """Run all conformance checks on one method in a temporary folder, and return the report.

    Args:
        registry: the registry of plugins.
        request: the method with its options.
        device: torch device string.
        tell: called with each finding as soon as it is known.

    Raises:
        AttrbenchError: where the device does not exist.
    """
    torch_device(device)
    quick = _quick(request)
    request = with_quick_options(request)
    started = time.perf_counter()
    unavailable: str | None = None
    findings: list[Finding] = []
    with TemporaryDirectory(prefix="attrbench-check-", ignore_cleanup_errors=True) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for finding in _findings(Bench(registry, Path(folder), device), request):
                tell(finding)
                findings.append(finding)
        except Unavailable as error:
            unavailable, findings = str(error), []
    return Report(request.label, tuple(findings), time.perf_counter() - started, unavailable, quick=quick)


def with_quick_options(request: MethodRequest) -> MethodRequest:
    """Return the request as it is checked: with the method's cheap option values, except for those the user gave."""
    kind, spec = type(request.method), Spec(request.spec.name, {**_quick(request), **request.spec.given})
    return replace(request, spec=spec, method=kind(build_options("method", spec, kind.Options)))


def _quick(request: MethodRequest) -> dict[str, str]:
    """Return the option values that a check takes from `Method.quick`: those beside which none of the user's speaks."""
    options, needs = request.method.options, needs_of(request.method.options.__class__)
    return {
        name: value
        for name, value in request.method.quick.items()
        if name not in request.spec.given and all(need.holds(options) for need in needs.get(name, ()))
    }


def _findings(bench: Bench, request: MethodRequest) -> Iterator[Finding]:
    try:
        request.method.check(TRAIN)
        subject = Subject(bench, request)
    except Unavailable:
        raise
    except Exception as error:
        yield failed(
            "runs",
            one_line(error),
            f"nothing else can be checked before it scores {QUERIES} queries against {TRAIN} training items",
        )
        return
    yield passed("runs", f"{TRAIN} training items scored for {QUERIES} queries")
    yield from findings_of(zip(NAMES[1:], CHECKS, strict=True), subject, PAGE)
