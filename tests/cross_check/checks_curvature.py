"""EK-FAC and K-FAC.

kronfluence's `damping_factor=None` is 0.1 of each module's mean eigenvalue, our `damping=0.1` in relative mode. What
factors are made of is drawn by us, with replacement, one set for the eigenvectors and one for the eigenvalues; the
peers get the very same draws, and for `fisher=mc` the very same random gradients.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from attrbench.gradients.curvature.hessian_products import kronecker
from tests.cross_check import exact, ours, peer_dattri, peer_kronfluence
from tests.cross_check.faults_dattri import BASIS, BIAS, basis_turned_round
from tests.cross_check.faults_others import POSITIONS
from tests.cross_check.problems import TRAIN, Data, problem
from tests.cross_check.report import Row, row

DRAWS = 256
ABSOLUTE = 1e-3
NAMES = {"ekfac": "EK-FAC", "kfac": "K-FAC"}


def rows() -> Iterator[Row]:
    """kronfluence in all its ways, then dattri."""
    for name in ("mlp", "conv", "tokens"):
        yield _kronfluence(name, "ekfac", "empirical", None)
        yield _kronfluence(name, "ekfac", "mc", None)
    yield _kronfluence("conv", "ekfac", "empirical", ABSOLUTE)
    yield _kronfluence("mlp", "kfac", "mc", None)
    yield _kronfluence("conv", "kfac", "mc", None, POSITIONS)
    yield _kronfluence("tokens", "kfac", "mc", ABSOLUTE, POSITIONS)
    yield _dattri("mlp-no-bias", BASIS)
    yield _dattri("mlp", f"{BASIS}, {BIAS}")
    with basis_turned_round():
        yield _dattri("mlp-no-bias", turned=", its eigenvectors transposed")


def _kronfluence(name: str, method: str, fisher: str, damping: float | None, fault: str = "") -> Row:
    p = problem(name)
    curvature = draws(name, fisher)
    unit = "damping = 0.1 mean eigenvalue" if damping is None else f"lambda = {damping:g} absolute"
    return row(
        method,
        f"kronfluence {NAMES[method]}",
        name,
        f"fisher={fisher}, {unit}",
        ours.scores(name, method, f"fisher={fisher},sharing=expand,draws={DRAWS},{_damping(damping)}"),
        peer_kronfluence.scores(
            p.module(), p.data("train"), p.data("query"), method, damping, curvature, fisher == "mc"
        ),
        truth(name, method, curvature, fisher == "mc", damping),
        fault,
    )


def _dattri(name: str, fault: str = "", turned: str = "") -> Row:
    """dattri takes one set for both; ours gets every item once for each."""
    p = problem(name)
    train, query = p.data("train"), p.data("query")
    with ours.samples_in_turn():
        mine = ours.scores(name, "ekfac", f"fisher=empirical,sharing=expand,draws={TRAIN},{_damping(ABSOLUTE)}")
    theirs = peer_dattri.ekfac(p.module(), train, query, ABSOLUTE)
    what = f"fisher=empirical, lambda = {ABSOLUTE:g} absolute{turned}"
    expected = truth(name, "ekfac", (train, train), False, ABSOLUTE)
    return row("ekfac", "dattri EK-FAC", name, what, mine, theirs, expected, fault)


def _damping(damping: float | None) -> str:
    return "damping=0.1" if damping is None else f"damping={damping},damping_mode=absolute"


def draws(name: str, fisher: str) -> tuple[Data, Data]:
    """What our factors are made of: for eigenvectors and for eigenvalues, the second part as kronfluence takes it."""
    options = kronecker.FactorOptions(fisher, "expand", DRAWS)
    found = []
    for purpose in ("vectors", "values"):
        batches = list(kronecker._draws(problem(name).samples("train"), options, purpose))
        noisy, target = (torch.cat([getattr(batch, part) for batch in batches]) for part in ("noisy", "target"))
        found.append(Data(noisy, target * (2 / target[0].numel()) ** 0.5 if fisher == "mc" else target))
    return found[0], found[1]


def truth(name: str, method: str, curvature: tuple[Data, Data], sampled: bool, damping: float | None) -> np.ndarray:
    """[m, n] scores by explicit matrices."""
    p = problem(name)
    vectors, values = (exact.layers(p.module(), *data, sampled=sampled) for data in curvature)
    matrices = {
        layer: vectors[layer].ekfac(values[layer]) if method == "ekfac" else vectors[layer].kfac() for layer in vectors
    }
    lam = {layer: 0.1 * mean if damping is None else damping for layer, (_, mean) in matrices.items()}
    curvatures = {layer: matrix for layer, (matrix, _) in matrices.items()}
    return exact.per_block(p.gradients["query"], p.gradients["train"], curvatures, p.blocks, lam)
