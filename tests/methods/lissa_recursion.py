"""The recursion of LiSSA as it stands, the dense solution, and scores of the method on random rows."""

import numpy as np

from attrbench_methods.second_order.lissa import LiSSA, LiSSAOptions
from tests.methods.in_memory import InMemory, context

N, M, K = 20, 6, 12
BLOCKS = {"a": slice(0, 5), "b": slice(5, 6), "c": slice(6, 12)}
EXACT = 1e-300  # a tolerance that is never met: all the iterations are taken


def fitted(train, layers=None, seed=0, **options):
    method = LiSSA(LiSSAOptions(**options))
    return method.fit(InMemory(train).train(method, layers), context(seed))


def asked_of(asked, **options):
    """Return what the scorer of LiSSA with these options gets of queries."""
    return InMemory(asked).query(LiSSA(LiSSAOptions(**options)))


def scores(train, asked, layers=None, seed=0, **options):
    return fitted(train, layers, seed, **options).scores(asked_of(asked, **options)).astype("f8")


def absolute(damping):
    return {"damping": damping, "damping_mode": "absolute"}


def fisher(train):
    return train.T @ train / len(train)


def dense(asked, matrix, damping):
    """(H + lam I)^-1 g for each row."""
    return np.linalg.solve(matrix + damping * np.eye(len(matrix)), asked.T).T


def richardson(asked, matrix, damping, step, iterations):
    """u <- u + eta (g - (H + lam I) u) as it stands, from u = eta g, which counts as the first step."""
    u = step * asked
    for _ in range(iterations - 1):
        u = u + step * (asked - u @ matrix - damping * u)
    return u


def assert_close(found, expected, tolerance=1e-4):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
