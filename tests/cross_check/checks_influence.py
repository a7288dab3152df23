"""DataInf and LiSSA.

Units: dattri's DataInf takes one absolute lambda for all modules, ours too with `damping_mode=absolute`. dattri's
LiSSA iterates u <- g + (1 - damping) u - H u / scaling and returns u / scaling: its fixed point is
(H + damping * scaling I)^-1 g, so damping = lambda / scaling.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, log

import numpy as np

from tests.cross_check import exact, ours, peer_dattri
from tests.cross_check.problems import TRAIN, problem
from tests.cross_check.report import Row, row

TOLERANCE = 1e-5


def rows() -> Iterator[Row]:
    """DataInf, then LiSSA over three matrices."""
    for name in ("mlp", "conv", "tokens"):
        yield from _datainf(name)
    for name in ("mlp", "conv"):
        yield _fisher(name)
    for name, kind in (("affine", "ggn"), ("affine", "hessian"), ("mlp", "hessian"), ("tokens", "hessian")):
        yield _network(name, kind)


def _datainf(name: str) -> Iterator[Row]:
    p = problem(name)
    g, q = p.gradients["train"], p.gradients["query"]
    for damping in (1e-3, 1e-1):
        yield row(
            "datainf",
            "dattri DataInf",
            name,
            f"a block a module, lambda = {damping:g} absolute",
            ours.scores(name, "datainf", f"v=none,blocks=module,damping={damping},damping_mode=absolute"),
            peer_dattri.datainf(p.module(), p.data("train"), p.data("query"), damping),
            exact.datainf(q, g, p.blocks, dict.fromkeys(p.blocks, damping)),
        )


def _fisher(name: str) -> Row:
    """Over the empirical Fisher matrix of the same gradients; theirs as the Hessian of a quadratic that has it."""
    p = problem(name)
    g, q = p.gradients["train"], p.gradients["query"]
    matrix = exact.fisher(g)
    top = float(np.linalg.eigvalsh(matrix)[-1])
    lam = 0.05 * top
    theirs = peer_dattri.lissa_of_rows(g, q, lam / (top + lam), top + lam, steps(0.0, top, lam))
    options = f"v=none,blocks=single,{absolute(lam)},iterations=1000000"
    mine, truth = ours.scores(name, "lissa", options), exact.damped(q, g, matrix, lam)
    what = "empirical Fisher, damping = lambda/scaling"
    return row("lissa", "dattri ihvp_lissa", name, what, mine, theirs, truth)


def _network(name: str, kind: str) -> Row:
    """Over the network's own Hessian, or Gauss-Newton matrix where that is the same."""
    p = problem(name)
    train, query = p.data("train"), p.data("query")
    matrix = exact.hessian(p.module(), train.noisy, train.target)
    values = np.linalg.eigvalsh(matrix)
    lam = float(max(0.2 * values[-1], -2 * values[0]))
    top = float(values[-1])
    theirs = peer_dattri.lissa(
        p.module(), train, query, lam / (top + lam), top + lam, steps(float(values[0]), top, lam)
    )
    options = f"hessian={kind},batch={TRAIN},{absolute(lam)},iterations=2000"
    with ours.samples_in_turn():
        mine = ours.scores(name, "lissa", options)
    truth = exact.damped(p.gradients["query"], p.gradients["train"], matrix, lam)
    what = f"hessian={kind}, all pairs every step, damping = lambda/scaling"
    return row("lissa", "dattri LiSSA", name, what, mine, theirs, truth)


def absolute(damping: float) -> str:
    """Options that make our LiSSA go all the way with an absolute damping."""
    return f"damping={damping},damping_mode=absolute,tolerance={TOLERANCE}"


def steps(low: float, top: float, damping: float) -> int:
    """How many of them leave 1e-7 of the slowest direction."""
    return max(ceil(log(1e-7) / log(1 - (low + damping) / (top + damping))), 20)
