"""The results of a conformance run: one finding for each check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

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
    """Return the finding of a check that passed."""
    return Finding(check, "passed", found)


def failed(check: str, found: str, advice: str) -> Finding:
    """Return the finding of a check that failed."""
    return Finding(check, "failed", found, advice)


def skipped(check: str, reason: str) -> Finding:
    """Return the finding of a check that could not be made or does not apply."""
    return Finding(check, "skipped", reason)


@dataclass(frozen=True)
class Report:
    """All findings about one method.

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
        """`passed` if every check passed or was skipped, else `failed`; `unavailable` if the method cannot run."""
        if self.unavailable is not None:
            return "unavailable"
        return "failed" if any(finding.status == "failed" for finding in self.findings) else "passed"

    def counts(self) -> Counter[str]:
        """Return status -> number of findings."""
        return Counter(finding.status for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        """Return the report as a JSON-compatible dict."""
        return {
            "method": self.method,
            "status": self.status,
            "unavailable": self.unavailable,
            "seconds": round(self.seconds, 3),
            "checks": [asdict(finding) for finding in self.findings],
        }
