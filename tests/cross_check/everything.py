"""All checks and all reproductions, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.cross_check import (
    checks_curvature,
    checks_gradients,
    checks_influence,
    checks_trak,
    faults_dattri,
    faults_others,
)
from tests.cross_check.report import Fault, Row

CHECKS: dict[str, Callable[[], Iterator[Row]]] = {
    "gradients": checks_gradients.rows,
    "trak": checks_trak.rows,
    "influence": checks_influence.rows,
    "curvature": checks_curvature.rows,
}
FAULTS: dict[str, Callable[[], Fault]] = {**faults_dattri.FAULTS, **faults_others.FAULTS}
