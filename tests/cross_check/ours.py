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

from attrbench.contracts.method import Context
from attrbench.evaluation.requests import request_methods
from attrbench.gradients.per_sample import Batch
from attrbench.gradients.samples import NoisySamples
from attrbench.plugins.registry import registry
from tests.cross_check.problems import OPTIONS, problem
from tests.methods.in_memory import InMemory, scores_by_run


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
        (found,) = scores_by_run(opened, Path(folder), spec)
        return found


def scores_of_rows(train: np.ndarray, query: np.ndarray, spec: str) -> np.ndarray:
    """[m, n] scores of a method of ours that takes one row an item, over these rows ([n, k] and [m, k])."""
    (request,) = request_methods(registry(), [spec])
    context = Context(0, len(train), Path(), "rows", _no_model, _no_model, _no_model)
    scorer = request.method.fit(InMemory(train).train(request.method), context)
    return np.asarray(scorer.scores(InMemory(query).query(request.method)), dtype=np.float64)


def _no_model(*_: object) -> None:
    raise AssertionError("this method needs no model")


@contextmanager
def samples_in_turn() -> Iterator[None]:
    """Methods that draw samples with replacement get them in turn: as many as there are make a whole pass."""
    place: WeakKeyDictionary[NoisySamples, int] = WeakKeyDictionary()

    def drawn(samples: NoisySamples, size: int, draws: object) -> Batch:
        total = samples.count * len(samples.timesteps)
        first = place.get(samples, 0)
        place[samples] = first + size
        ((_, _, batch),) = samples.batches(total, samples.count)
        return batch.select((first + torch.arange(size)) % total)

    scores.cache_clear()
    try:
        with mock.patch.object(NoisySamples, "drawn", drawn):
            yield
    finally:
        scores.cache_clear()
