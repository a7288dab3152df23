"""Our scores, by the same road that a run takes: plan, passes, shards, fit, score."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest import mock
from weakref import WeakKeyDictionary

import numpy as np
import torch

from attrbench.contracts.feature import QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context
from attrbench.contracts.samples import Batch
from attrbench.evaluation.execute import compute_passes, method_context
from attrbench.evaluation.feature_reader import MethodFeatures
from attrbench.evaluation.plan import Plan
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import RunSettings, request_methods
from attrbench.gradients.samples import NoisySamples
from attrbench.plugins.registry import registry
from tests.cross_check.problems import OPTIONS, problem


@cache
def scores(name: str, method: str, options: str = "") -> np.ndarray:
    """[m, n] float64 scores of a method of ours on the problem called `name`.

    Args:
        name: of the problem.
        method: its name.
        options: as after the colon of `-m`, besides grid and noise, which are the problem's.
    """
    opened = problem(name)
    spec = f"{method}:" + ",".join(filter(None, (OPTIONS, options)))
    with tempfile.TemporaryDirectory() as folder:
        (request,) = request_methods(registry(), [spec])
        plan = Plan(opened.meta, opened, [request], RunSettings(Path(folder), Path(folder)))
        compute_passes(plan, registry(), Silent())
        read = MethodFeatures(plan, plan.features(request))
        scorer = request.method.fit(read.train(), method_context(plan, request, read.fingerprint))
        return np.asarray(scorer.scores(read.query()), dtype=np.float64)


def scores_of_rows(train: np.ndarray, query: np.ndarray, spec: str) -> np.ndarray:
    """[m, n] scores of a method of ours that takes one row an item, over these rows ([n, k] and [m, k])."""
    (request,) = request_methods(registry(), [spec])
    context = Context(0, len(train), Path(), "rows", _no_model, _no_model)
    scorer = request.method.fit(TrainFeatures(len(train), rows=_Rows(train), sizes={"": train.shape[1]}), context)
    return np.asarray(scorer.scores(_Rows(query).query()), dtype=np.float64)


def _no_model(*_: object) -> None:
    raise AssertionError("this method needs no model")


class _Rows:
    """Mean rows (T = 1) of unit norm beside their norms."""

    def __init__(self, raw: np.ndarray) -> None:
        self.norms = np.linalg.norm(raw, axis=1, keepdims=True).astype(np.float32)
        self._rows = (raw / self.norms).astype(np.float32)[:, None]
        self.count, self.width, self.row_bytes = len(raw), raw.shape[1], 4 * raw.shape[1]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All of them at once."""
        yield 0, self._rows

    def query(self) -> QueryFeatures:
        """The same as queries."""
        return QueryFeatures(np.arange(self.count), rows=self._rows, norms=self.norms)


@contextmanager
def pairs_in_turn() -> Iterator[None]:
    """Methods that draw pairs with replacement get them in turn: as many as there are make a whole pass."""
    place: WeakKeyDictionary[NoisySamples, int] = WeakKeyDictionary()

    def drawn(pairs: NoisySamples, size: int, draws: object) -> Batch:
        total = pairs.count * len(pairs.timesteps)
        first = place.get(pairs, 0)
        place[pairs] = first + size
        ((_, _, batch),) = pairs.batches(total, pairs.count)
        return batch.select((first + torch.arange(size)) % total)

    scores.cache_clear()
    try:
        with mock.patch.object(NoisySamples, "drawn", drawn):
            yield
    finally:
        scores.cache_clear()
