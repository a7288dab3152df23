"""Faults of kronfluence, traker and the code that DataInf's authors released."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
from torch import nn

from tests.cross_check import exact, peer_kronfluence, peer_traker
from tests.cross_check.drawn import drawn
from tests.cross_check.report import Fault, fault, measured, relative, spearman

POSITIONS = "kronfluence-kfac-positions"
IMAGE = (4, 5, 5)


def kfac_positions() -> Fault:
    """One convolution over 5 x 5 positions: the K-FAC matrix is 25 times too small, its EK-FAC matrix is right."""
    module, train, query = drawn(lambda: nn.Sequential(nn.Conv2d(4, 3, 3, padding=1)), IMAGE)
    g, q = (exact.gradients(module, *data) for data in (train, query))
    (layer,) = exact.layers(module, *train).values()
    theirs, truth, small = {}, {}, {}
    for strategy in ("kfac", "ekfac"):
        matrix, mean = getattr(layer, strategy)()
        lam = 0.1 * mean
        theirs[strategy] = peer_kronfluence.scores(copy.deepcopy(module), train, query, strategy, lam)
        truth[strategy], small[strategy] = (exact.damped(q, g, matrix / factor, lam) for factor in (1, 25))
    kfac, ekfac = (measured(theirs[strategy], truth[strategy]) for strategy in ("kfac", "ekfac"))
    return fault(
        POSITIONS,
        "kronfluence",
        "K-FAC divides both covariances by the number of positions R; the gradient sums over them: R times too small",
        f"R = 25, against the explicit K-FAC inverse: {kfac}; against that of 1/25 of it:"
        f" {measured(theirs['kfac'], small['kfac'])}; its EK-FAC against the explicit one: {ekfac}",
        relative(theirs["kfac"], truth["kfac"]) > 0.1
        and relative(theirs["kfac"], small["kfac"]) < 1e-4
        and relative(theirs["ekfac"], truth["ekfac"]) < 1e-4,
    )


def conv_groups() -> Fault:
    """No preconditioning at all: the gradients themselves."""
    return _convolution(
        "kronfluence-conv-groups",
        "a convolution with groups gets patches averaged over its groups, in its per-sample gradients too",
        groups=2,
    )


def conv_padding() -> Fault:
    """Likewise."""
    return _convolution(
        "kronfluence-conv-padding",
        "a convolution's padding_mode is ignored: its patches are padded with zeros",
        padding_mode="circular",
    )


def _convolution(name: str, says: str, **options) -> Fault:
    shown, differences = [], []
    for given in ({}, options):
        module, train, query = drawn(lambda given=given: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, **given)), IMAGE)
        truth = exact.gradients(module, *query) @ exact.gradients(module, *train).T
        theirs = peer_kronfluence.scores(copy.deepcopy(module), train, query, "identity")
        differences.append(relative(theirs, truth))
        shown.append(f"{given or 'without'}: {measured(theirs, truth)}")
    says = f"strategy identity: {says}"
    plain, special = differences
    return fault(name, "kronfluence", says, "inner products of gradients, " + "; ".join(shown), plain < 1e-6 < special)


def short_projection() -> Fault:
    """A projection to at most 100 numbers is a single block, which is freed before scoring."""
    module, train, query = drawn(lambda: nn.Linear(4, 3))
    shown = []
    for length in (100, 101):
        projector = peer_traker.basic_projector(15, length)
        try:
            peer_traker.scores(copy.deepcopy(module), train, query, projector, 1e-3)
            shown.append(f"k={length}: scores")
        except AttributeError as error:
            shown.append(f"k={length}: AttributeError: {error}")
    says = "BasicProjector with proj_dim <= 100 can't score: finalize_features frees a matrix that is not drawn again"
    holds = "AttributeError" in shown[0] and shown[1].endswith("scores")
    return fault("traker-short-projection", "traker", says, "; ".join(shown), holds)


def half_precision() -> Fault:
    """Losses of the size of a mean over many pixels."""
    module, train, query = drawn(lambda: nn.Linear(4, 3))
    g, q = (exact.gradients(module, *data) for data in (train, query))
    lam = 0.1 * float(np.square(g).sum()) / len(g)
    shown, ranks = [], []
    for scale in (1.0, 1e-2, 1e-4):
        for half in (False, True):
            output, damping = peer_traker.Loss(scale), lam / 15 * scale**2
            try:
                theirs = peer_traker.scores(
                    copy.deepcopy(module), train, query, peer_traker.whole(), damping, output, half
                )
                ranks.append(spearman(theirs, exact.ridge(q, g, lam)))
                shown.append(f"{ranks[-1]:.4f}")
            except RuntimeError as error:
                ranks.append(0.0)
                shown.append(str(error).split(":")[0] + " fails")
    singles, halves = ranks[::2], ranks[1::2]
    return fault(
        "traker-half",
        "traker",
        "features and X^T X are float16 by default: small gradients lose their digits, then vanish",
        "Spearman with the explicit kernel, gradients times 1, 1e-2, 1e-4: float32 "
        + ", ".join(shown[::2])
        + "; float16 "
        + ", ".join(shown[1::2]),
        min(singles) > 0.999 > halves[-1],
    )


def released_lissa() -> Fault:
    """The recursion of DataInf's released code, and where it would go, on a quadratic of ten coordinates."""
    draws = np.random.default_rng(0)
    g, v = draws.normal(size=(50, 10)) * np.linspace(0.2, 0.9, 10), draws.normal(size=(4, 10))
    matrix, lam = exact.fisher(g), 0.02
    truth, other = (np.linalg.solve(matrix + sign * lam * np.eye(10), v.T).T for sign in (1, -1))
    found = {-1: v, 1: v}
    for sign in found:
        u = v
        for _ in range(2000):
            u = v + u - (u @ matrix + sign * lam * u)
        found[sign] = u
    wrong, wrong_other, right = relative(found[-1], truth), relative(found[-1], other), relative(found[1], truth)
    return fault(
        "datainf-released-lissa",
        "DataInf (released code)",
        "its LiSSA subtracts the damping: u <- v + u - (G u - lambda u), whose fixed point is (G - lambda I)^-1 v",
        f"against (G + lambda I)^-1 v: difference {wrong:.1e}; against (G - lambda I)^-1 v: {wrong_other:.1e};"
        f" with the sign right, against (G + lambda I)^-1 v: {right:.1e}",
        wrong > 0.1 and wrong_other < 1e-6 and right < 1e-6,
    )


FAULTS: dict[str, Callable[[], Fault]] = {
    POSITIONS: kfac_positions,
    "kronfluence-conv-groups": conv_groups,
    "kronfluence-conv-padding": conv_padding,
    "traker-short-projection": short_projection,
    "traker-half": half_precision,
    "datainf-released-lissa": released_lissa,
}
