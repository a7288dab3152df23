"""LiSSA over drawn items is the full recursion on average, and decided by its seed."""

import numpy as np
import pytest

from attrbench_methods.second_order.lissa import SampledScorer
from tests.methods.in_memory import raw_rows
from tests.methods.lissa_recursion import (
    EXACT,
    K,
    M,
    N,
    absolute,
    asked_of,
    assert_close,
    fisher,
    fitted,
    richardson,
    scores,
)


def sampled(train, asked, seed=0, **options):
    taken = {} if "batch" in options else {"tolerance": EXACT}
    return scores(train, asked, seed=seed, blocks="single", **taken, **options)


@pytest.mark.parametrize("batch", [N, 10 * N])
def test_a_batch_of_all_items_is_the_full_recursion(batch):
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    full = sampled(train, asked, iterations=40)
    assert_close(sampled(train, asked, iterations=40, batch=batch), full)
    assert sampled(train, asked, iterations=40, batch=batch)[0] == pytest.approx(full[0], rel=1e-3, abs=1e-3)


def test_sampled_recursion_is_decided_by_the_seed():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    first = sampled(train, asked, batch=3, iterations=30)
    np.testing.assert_array_equal(sampled(train, asked, batch=3, iterations=30), first)
    assert np.abs(sampled(train, asked, seed=1, batch=3, iterations=30) - first).max() > 1e-3 * np.abs(first).max()


def test_a_query_gets_the_draws_that_it_gets_among_others():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    options = {"blocks": "single", "batch": 3, "iterations": 30}
    scorer = fitted(train, **options)
    together = scorer.scores(asked_of(asked, **options))
    for q in range(M):
        assert_close(scorer.scores(asked_of(asked[q : q + 1], **options))[0], together[q], 1e-5)


def test_sampled_recursion_is_linear_in_the_query():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    asked[2] = 3 * asked[0] - 0.5 * asked[1]
    found = sampled(train, asked, batch=3, iterations=30)
    np.testing.assert_allclose(found[2], 3 * found[0] - 0.5 * found[1], atol=1e-4 * np.abs(found[:2]).max())


def test_sampled_recursion_is_the_full_one_on_average():
    """Draws are independent from step to step, so that the mean over seeds is exact; its error falls as 1 / seeds."""
    train, asked = raw_rows(N, 0, 5), raw_rows(1, 1, 5)
    damping, iterations, seeds = 0.5, 15, 300
    step = 0.5 / (train**2).sum(axis=1).max()
    options = {"step": step, "iterations": iterations, **absolute(damping)}
    expected = richardson(asked, fisher(train), damping, step, iterations) @ train.T
    found = np.array([sampled(train, asked, seed=seed, batch=4, **options)[0] for seed in range(seeds)])
    error = np.linalg.norm(found.mean(axis=0) - expected[0])
    spread = np.sqrt(found.var(axis=0).sum() / seeds)
    assert spread < 0.05 * np.linalg.norm(expected)
    assert error < 3 * spread


def test_larger_batches_come_closer():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    step = 1 / (train**2).sum(axis=1).max()
    full = richardson(asked, fisher(train), 1.0, step, 60) @ train.T
    options = {"step": step, "iterations": 60, **absolute(1.0)}
    errors = [
        np.mean([np.linalg.norm(sampled(train, asked, seed=s, batch=b, **options) - full) for s in range(10)])
        for b in (1, 5, 15, 20)
    ]
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-5 * np.linalg.norm(full)


def test_residual_of_the_sampled_recursion_is_measured_on_all_items():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    options = {"blocks": "single", "batch": 3, "iterations": 30}
    scorer = fitted(train, **options)
    assert isinstance(scorer, SampledScorer)
    u = np.linalg.lstsq(train, scorer.scores(asked_of(asked, **options)).T.astype("f8"), rcond=None)[0].T
    damping = 0.1 * (train**2).mean()
    left = asked - u @ fisher(train) - damping * u
    expected = (np.linalg.norm(left, axis=1) / np.linalg.norm(asked, axis=1)).max()
    assert scorer.facts()["residual"] == pytest.approx(expected, rel=1e-3)
    assert scorer.facts()["damping"] == pytest.approx(damping, rel=1e-5)
    assert scorer.size().rows == 8 * N * K
