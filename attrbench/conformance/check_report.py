"""The results of the conformance checks of a method or task: one finding for each check, and a report of them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeVar

from attrbench.conformance.fault import one_line

Status = Literal["passed", "failed", "skipped"]
Kind = Literal["method", "task"]
SubjectT = TypeVar("SubjectT")


@dataclass(frozen=True)
class Finding:
    """The result of one conformance check: passed, failed or skipped, with what was found and what to do.

    Attributes:
        check: name of the check.
        status: `skipped` if the check does not apply, or another check already reports the problem.
        found: the result in one line, with numbers.
        advice: what to do, if it failed.
    """

    check: str
    status: Status
    found: str
    advice: str = ""


def passed(check: str, found: str) -> Finding:
    """Return the finding of a conformance check that passed; `found` says in one line what was measured."""
    return Finding(check, "passed", found)


def failed(check: str, found: str, advice: str) -> Finding:
    """Return the finding of a conformance check that failed, with what was found and advice for fixing it."""
    return Finding(check, "failed", found, advice)


def skipped(check: str, reason: str) -> Finding:
    """Return the finding of a conformance check that was not made or does not apply, with the reason."""
    return Finding(check, "skipped", reason)


def findings_of(
    checks: Iterable[tuple[str, Callable[[SubjectT], Finding]]], subject: SubjectT, page: str
) -> Iterator[Finding]:
    """Yield the finding of each check of a method or task; an exception fails only the check that it occurs in.

    Args:
        checks: (name, check) in order.
        subject: what is checked.
        page: the documentation that explains the checks.
    """
    for name, check in checks:
        try:
            yield check(subject)
        except Exception as error:
            yield failed(name, f"raised {one_line(error)}", f"see {page} for what the check does")


@dataclass(frozen=True)
class Report:
    """The report of all conformance checks of one method or task.

    Attributes:
        label: the method or task with the options that it was checked with, as given by `-m` or `-t`.
        findings: the findings in the order of the checks.
        seconds: duration of the run.
        unavailable: why the method cannot run on this machine; then there are no findings.
        kind: of what was checked.
        quick: options of `label` that nobody gave: those that the method itself names for checks (`Method.quick`).
    """

    label: str
    findings: Sequence[Finding]
    seconds: float
    unavailable: str | None = None
    kind: Kind = "method"
    quick: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> Literal["passed", "failed", "unavailable"]:
        """Return `passed` if no check failed, `failed` if one did, `unavailable` if the method can't run here."""
        if self.unavailable is not None:
            return "unavailable"
        return "failed" if any(finding.status == "failed" for finding in self.findings) else "passed"

    def counts(self) -> Counter[str]:
        """Return how many checks passed, failed and were skipped, as status -> count."""
        return Counter(finding.status for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        """Return the report as a JSON-compatible dict, whose first key says whether it is of a method or a task."""
        quick = {"quick": dict(self.quick)} if self.kind == "method" else {}
        return {
            self.kind: self.label,
            **quick,
            "status": self.status,
            "unavailable": self.unavailable,
            "seconds": round(self.seconds, 3),
            "checks": [asdict(finding) for finding in self.findings],
        }
