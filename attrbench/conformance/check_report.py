"""The results of the conformance checks of a method: one finding for each check, and a report of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["passed", "failed", "skipped"]


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


@dataclass(frozen=True)
class Report:
    """The report of all conformance checks of one method.

    Attributes:
        method: the method with its options, as given by `-m`.
        findings: the findings in the order of the checks.
        seconds: duration of the run.
        unavailable: why the method cannot run on this machine; then there are no findings.
    """

    method: str
    findings: Sequence[Finding]
    seconds: float
    unavailable: str | None = None

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
        """Return the report of a method's conformance checks as a JSON-compatible dict."""
        return {
            "method": self.method,
            "status": self.status,
            "unavailable": self.unavailable,
            "seconds": round(self.seconds, 3),
            "checks": [asdict(finding) for finding in self.findings],
        }
