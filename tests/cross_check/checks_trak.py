"""TRAK and D-TRAK: the ridge kernel over projected gradients.

Units of lambda. Ours is that of the features as they are. traker's projection is not scaled and
its features are divided by sqrt(p): lambda_reg = lambda / p for the same matrix. dattri's projection is scaled by
1/sqrt(k) and its features are divided by sqrt(p) too: regularization = lambda / p. traker divides the inverse by its
mean |entry|, which changes no ranking; it is undone here, so that differences can be told.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.cross_check import exact, ours, peer_dattri, peer_traker
from tests.cross_check.problems import problem
from tests.cross_check.report import Row, row

MODELS = ("mlp", "conv")
LENGTH = 150
"""More than one block of traker's projector, which can't score with a single one."""
DAMPING = 0.05


def rows() -> Iterator[Row]:
    """Whole gradients, then both sides on the very same projection."""
    for name in MODELS:
        p = problem(name)
        train, query = p.data("train"), p.data("query")
        g, q = p.gradients["train"], p.gradients["query"]
        count = g.shape[1]
        squares = [exact.gradients(p.module(), *data, output="squared-norm") for data in (train, query)]
        for method, output, mine, asked in (
            ("trak", peer_traker.Loss(), g, q),
            ("d-trak", peer_traker.SquaredNorm(), *squares),
        ):
            lam = relative_damping(mine)
            theirs = peer_traker.scores(p.module(), train, query, peer_traker.whole(), lam / count, output)
            theirs = undo_scale(theirs, mine / np.sqrt(count), lam / count)
            yield row(
                method,
                "traker NoOpProjector",
                name,
                "whole gradients, lambda_reg = lambda/p",
                ours.scores(name, method, f"v=none,damping={DAMPING}"),
                theirs,
                exact.ridge(asked, mine, lam),
            )
        yield from _projected(name)


def _projected(name: str) -> Iterator[Row]:
    p = problem(name)
    train, query = p.data("train"), p.data("query")
    count = p.gradients["train"].shape[1]
    matrix = peer_traker.projection(count, LENGTH)
    phi, asked = p.gradients["train"] @ matrix, p.gradients["query"] @ matrix
    lam = relative_damping(phi)
    mine, truth = ours.scores_of_rows(phi, asked, f"trak:damping={DAMPING}"), exact.ridge(asked, phi, lam)
    projector = peer_traker.basic_projector(count, LENGTH)
    theirs = peer_traker.scores(p.module(), train, query, projector, lam / count)
    theirs = undo_scale(theirs, phi / np.sqrt(count), lam / count)
    what = f"its Gaussian matrix, k={LENGTH}, lambda_reg = lambda/p"
    yield row("trak", "traker BasicProjector", name, what, mine, theirs, truth)
    scaled = peer_dattri.projection(count, LENGTH)
    phi, asked = p.gradients["train"] @ scaled, p.gradients["query"] @ scaled
    lam = relative_damping(phi)
    mine, truth = ours.scores_of_rows(phi, asked, f"trak:damping={DAMPING}"), exact.ridge(asked, phi, lam)
    theirs = peer_dattri.trak(p.module(), train, query, LENGTH, lam / count)
    what = f"its Gaussian matrix / sqrt(k), k={LENGTH}, regularization = lambda/p"
    yield row("trak", "dattri TRAK", name, what, mine, theirs, truth)


def relative_damping(features: np.ndarray) -> float:
    """Lambda of `DAMPING` in our relative unit."""
    return DAMPING * float(np.square(features).sum()) / len(features)


def undo_scale(scores: np.ndarray, features: np.ndarray, damping: float) -> np.ndarray:
    """traker's scores times the factor by which it divided the inverse."""
    inverse = np.linalg.inv(features.T @ features + damping * np.eye(features.shape[1]))
    return scores * np.abs(inverse).mean()
