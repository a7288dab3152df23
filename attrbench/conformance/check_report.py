"""What a conformance run found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        status: `skipped` where it does not apply, or where another check has already said what is wrong.
        found: one line, with numbers.
        advice: what to do, where it failed.
    """

    check: str
    status: Status
    found: str
    advice: str = ""


def passed(check: str, found: str) -> Finding:
    """The method keeps to it."""
    return Finding(check, "passed", found)


def failed(check: str, found: str, advice: str) -> Finding:
    """The method does not."""
    return Finding(check, "failed", found, advice)


def skipped(check: str, reason: str) -> Finding:
    """It can't be told, or does not apply."""
    return Finding(check, "skipped", reason)


@dataclass(frozen=True)
class Report:
    """All findings about one method.

    Attributes:
        method: the `-m` string.
        findings: in the order of the checks.
        seconds: what the run took.
        unavailable: why the method cannot work here at all; then there are no findings.
    """

    method: str
    findings: Sequence[Finding]
    seconds: float
    unavailable: str | None = None

    @property
    def status(self) -> Literal["passed", "failed", "unavailable"]:
        """Whether every check passed or was skipped."""
        if self.unavailable is not None:
            return "unavailable"
        return "failed" if any(finding.status == "failed" for finding in self.findings) else "passed"

    def counts(self) -> Counter[str]:
        """How many findings have each status."""
        return Counter(finding.status for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "method": self.method,
            "status": self.status,
            "unavailable": self.unavailable,
            "seconds": round(self.seconds, 3),
            "checks": [asdict(finding) for finding in self.findings],
        }
