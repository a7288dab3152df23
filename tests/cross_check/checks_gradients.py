"""Per-sample gradients and their inner products: what everything else rests on."""

from __future__ import annotations

from collections.abc import Iterator

from tests.cross_check import exact, ours, peer_dattri, peer_kronfluence, peer_traker
from tests.cross_check.problems import problem
from tests.cross_check.report import Row, row

MODELS = ("mlp", "conv", "tokens")


def rows() -> Iterator[Row]:
    """Gradients as they are, and as grad-dot."""
    for name in MODELS:
        p = problem(name)
        train, query = p.data("train"), p.data("query")
        truth = exact.gradients(p.module(), *query)
        for peer, theirs in (
            ("dattri grad", peer_dattri.gradients(p.module(), query)),
            ("traker grad", peer_traker.gradients(p.module(), query)),
        ):
            yield row("(engine)", peer, name, "per-sample gradients", p.gradients["query"], theirs, truth)
        truth = truth @ exact.gradients(p.module(), *train).T
        mine = ours.scores(name, "grad-dot")
        for peer, theirs in (
            ("dattri TracIn", peer_dattri.tracin(p.module(), train, query)),
            ("kronfluence identity", peer_kronfluence.scores(p.module(), train, query, "identity")),
        ):
            yield row("grad-dot", peer, name, "inner products of gradients", mine, theirs, truth)
