"""Rows of the table: what was compared, how close it came, and who is right where it did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from scipy.stats import spearmanr

AGREE = 0.999
"""Spearman from which two score matrices agree."""


@dataclass(frozen=True)
class Row:
    """One comparison of [m, n] scores.

    Attributes:
        method: ours.
        peer: the package, and which part of it.
        version: of the package.
        problem: name of the model.
        compared: what was compared, with the conversions that make it the same thing.
        spearman: rank correlation over the training items, of the query where it is lowest.
        difference: largest |ours - theirs| over the largest |theirs| of the query, of the query where it is largest.
        ours: Spearman of our scores with those of an explicit solve, lowest over queries.
        theirs: likewise theirs.
        fault: the peer's fault (a name in `FAULTS`) that this comparison is known to meet; empty for none.
    """

    method: str
    peer: str
    version: str
    problem: str
    compared: str
    spearman: float
    difference: float
    ours: float
    theirs: float
    fault: str = ""

    @property
    def verdict(self) -> str:
        """`agree`; `peer's fault`, where the explicit solve sides with us; or `DISAGREE`."""
        if self.spearman >= AGREE:
            return "agree"
        if self.fault and self.ours >= AGREE > self.theirs:
            return f"peer's fault: {self.fault}"
        return "DISAGREE"

    @property
    def kept(self) -> bool:
        """Whether the two agree, or the peer's fault is shown."""
        return self.verdict != "DISAGREE" and self.ours >= AGREE


@dataclass(frozen=True)
class Fault:
    """A reproduction of a peer's fault.

    Attributes:
        name: short.
        peer: the package.
        version: of the package.
        says: what the package does, in one sentence.
        shown: the numbers that show it.
        holds: whether the fault still shows in this version.
    """

    name: str
    peer: str
    version: str
    says: str
    shown: str
    holds: bool


def row(
    method: str,
    peer: str,
    problem: str,
    compared: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    truth: np.ndarray,
    fault: str = "",
) -> Row:
    """The row of two score matrices and an explicit solve."""
    largest = np.abs(theirs).max(axis=1).clip(1e-300)
    return Row(
        method=method,
        peer=peer,
        version=version(peer.split()[0]),
        problem=problem,
        compared=compared,
        spearman=spearman(ours, theirs),
        difference=float((np.abs(ours - theirs).max(axis=1) / largest).max()),
        ours=spearman(ours, truth),
        theirs=spearman(theirs, truth),
        fault=fault,
    )


def fault(name: str, peer: str, says: str, shown: str, holds: bool) -> Fault:
    """The fault, with the version of the package in which it was looked for; none for code that is no package."""
    return Fault(name, peer, version(peer) if " " not in peer else "-", says, shown, bool(holds))


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation of two [m, n] matrices over n, the lowest over m; 0 where one is not finite."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return 0.0
    return min(float(spearmanr(a, b).statistic) for a, b in zip(one, other, strict=True))


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    """Largest |found - truth| over the largest |truth|."""
    return float(np.abs(found - truth).max() / np.abs(truth).max())


def measured(found: np.ndarray, truth: np.ndarray) -> str:
    """Both in words."""
    return f"Spearman {spearman(found, truth):.4f}, difference {relative(found, truth):.1e}"


COLUMNS = ("method", "peer", "version", "model", "what was compared", "Spearman", "max rel. diff.", "verdict")


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The table's cells, as text."""
    return [
        (r.method, r.peer, r.version, r.problem, r.compared, _rank(r.spearman), f"{r.difference:.1e}", r.verdict)
        for r in rows
    ]


WIDTHS = (9, 21, 8, 12, 66, 9, 14, 0)


def line(row: Row | None) -> str:
    """A line of the table for the terminal; None gives its head."""
    (parts,) = cells([row]) if row else (COLUMNS,)
    return "".join(f"{part:<{width}} " for part, width in zip(parts, WIDTHS, strict=True)).rstrip() + "\n"


def _rank(value: float) -> str:
    """Never rounded up to 1."""
    return f"{np.floor(value * 1e6) / 1e6:.6f}" if value < 1 - 1e-12 else "1"


def markdown(rows: Sequence[Row], faults: Sequence[Fault]) -> str:
    """Both tables."""
    lines = _table(COLUMNS, cells(rows))
    lines += [
        "",
        *_table(("fault", "package", "version", "what it does", "shown by", "still there"), _fault_cells(faults)),
    ]
    return "\n".join(lines) + "\n"


def _fault_cells(faults: Sequence[Fault]) -> list[tuple[str, ...]]:
    return [(f.name, f.peer, f.version, f.says, f.shown, "yes" if f.holds else "NO") for f in faults]


def _table(columns: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *body]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def as_json(rows: Sequence[Row], faults: Sequence[Fault]) -> dict[str, Any]:
    """Everything, for `--json`."""
    versions = {name: version(name) for name in ("attrbench", "torch", "numpy", "dattri", "traker", "kronfluence")}
    return {
        "versions": versions,
        "agree_from_spearman": AGREE,
        "rows": [{**asdict(r), "verdict": r.verdict, "kept": r.kept} for r in rows],
        "faults": [asdict(f) for f in faults],
    }
