"""DataInf (arXiv 2310.00902) against its formula in loops, and where its formula is exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from attrbench_methods.second_order.block_influence import BlockOptions
from attrbench_methods.second_order.datainf import DataInf, DataInfOptions, datainf_inverse
from attrbench_methods.second_order.lissa import LiSSA, LiSSAOptions
from tests.methods.in_memory import InMemory, context, raw_rows

N, M, K = 20, 6, 12
BLOCKS = {"a": slice(0, 5), "b": slice(5, 6), "c": slice(6, 12)}
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def scores(train, asked, layers=None, sizes=None, **options):
    method = DataInf(DataInfOptions(**options))
    scorer = method.fit(InMemory(train).train(method, layers, sizes), context())
    return scorer.scores(InMemory(asked).query(method)).astype("f8")


def absolute(damping):
    return {"damping": damping, "damping_mode": "absolute"}


def literal(train, asked, damping):
    """Kwon et al.'s equation 5 as it stands: a loop over queries and items."""
    found = np.zeros((len(asked), len(train)))
    for q, g_q in enumerate(asked):
        h = np.zeros(train.shape[1])
        for g_i in train:
            h += (g_q - g_q @ g_i / (damping + g_i @ g_i) * g_i) / (len(train) * damping)
        found[q] = train @ h
    return found


def relative(train, parameters, factor=0.1):
    return factor * np.mean((train**2).sum(axis=1)) / parameters


def exact_inverse(train, damping):
    return np.linalg.inv(train.T @ train / len(train) + damping * np.eye(train.shape[1]))


@given(SHAPES, st.integers(0, 1000), st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_closed_form_is_the_literal_loop_whichever_of_n_and_d_is_larger(shape, seed, damping):
    train = np.random.default_rng(seed).normal(size=shape)
    found = train @ datainf_inverse(train, damping).T
    expected = literal(train, train, damping)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_scores_are_the_literal_loop_over_blocks_each_with_its_own_damping():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    expected = sum(
        literal(train[:, part], asked[:, part], relative(train[:, part], part.stop - part.start))
        for part in BLOCKS.values()
    )
    np.testing.assert_allclose(scores(train, asked, BLOCKS), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@given(st.integers(1, 30), st.integers(0, 1000), st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_one_training_item_gives_the_exact_inverse(width, seed, damping):
    g = np.random.default_rng(seed).normal(size=(1, width))
    expected = g @ np.linalg.inv(g.T @ g + damping * np.eye(width))
    np.testing.assert_allclose(datainf_inverse(g, damping), expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())


def test_equal_gradients_give_the_exact_inverse():
    train, asked = np.tile(raw_rows(1, 0), (N, 1)), raw_rows(M, 1)
    expected = asked @ exact_inverse(train, 0.3) @ train.T
    np.testing.assert_allclose(scores(train, asked, **absolute(0.3)), expected, rtol=1e-4)


def test_unequal_gradients_do_not():
    """So that the two tests above can tell DataInf from an exact inverse."""
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    exact = asked @ exact_inverse(train, 0.3) @ train.T
    assert np.abs(scores(train, asked, **absolute(0.3)) - exact).max() > 0.1 * np.abs(exact).max()


def test_orthogonal_gradients_of_equal_norm_lose_their_share_of_each_direction():
    size, lam, n = 1.7, 0.4, 8
    train = size * np.linalg.qr(np.random.default_rng(0).normal(size=(K, n)))[0].T
    asked = raw_rows(M, 1)
    projections = (asked @ train.T) @ train / size**2
    h = (asked - projections * size**2 / (lam + size**2) / n) / lam
    np.testing.assert_allclose(scores(train, asked, **absolute(lam)), h @ train.T, rtol=1e-4, atol=1e-4)


def test_worked_example():
    """I.5: g = (1, 0), lam = 1, g_q = (2, 3): h = (1, 3), and <h, g> = 1; the relative rule gives lam = 0.05."""
    train, asked = np.array([[1.0, 0.0]]), np.array([[2.0, 3.0]])
    np.testing.assert_allclose(scores(train, asked, **absolute(1)), [[1]], rtol=1e-6)
    np.testing.assert_allclose(datainf_inverse(train, 1.0), [[0.5, 0]])
    assert BlockOptions().block_damping(train, 2) == pytest.approx(0.05)
    np.testing.assert_allclose(scores(train, asked), [[2 / (1 + 0.05)]], rtol=1e-6)


@pytest.mark.parametrize("c", [1e-3, 10.0, 1e4])
@pytest.mark.parametrize("layers", [None, BLOCKS], ids=["single", "blocks"])
def test_relative_damping_does_not_see_the_scale_of_the_gradients(c, layers):
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    one = scores(train, asked, layers)
    np.testing.assert_allclose(scores(c * train, c * asked, layers), one, rtol=1e-4, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("layers", [None, BLOCKS], ids=["single", "blocks"])
def test_large_damping_leaves_the_inner_product(layers):
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    found = scores(train, asked, layers, **absolute(1e9)) * 1e9
    np.testing.assert_allclose(found, asked @ train.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", [None, BLOCKS], ids=["single", "blocks"])
def test_identity_is_the_inner_product(layers):
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    found = scores(train, asked, layers, hessian="identity")
    np.testing.assert_allclose(found, asked @ train.T, rtol=1e-4, atol=1e-4)


def test_blocks_add_up():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    parts = (scores(train[:, part], asked[:, part]) for part in BLOCKS.values())
    np.testing.assert_allclose(scores(train, asked, BLOCKS), sum(parts), rtol=1e-4, atol=1e-3)


def test_a_single_block_ranks_as_the_inner_product_and_blocks_of_unequal_scale_do_not():
    """Why published rows with and without the Hessian are equal: lam is one constant, and small beside |g|^2."""
    width, count = 300, 200
    layers = {str(first): slice(first, first + width) for first in range(0, 4 * width, width)}
    scale = np.repeat([0.1, 0.5, 2.0, 10.0], width)
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(3, 4 * width))
    train = (rng.normal(size=(count, 4 * width)) + 0.3 * shared[rng.integers(3, size=count)]) * scale
    asked = (rng.normal(size=(M, 4 * width)) + 0.3 * shared[rng.integers(3, size=M)]) * scale
    dot = asked @ train.T
    single, several = scores(train, asked), scores(train, asked, layers)
    correlation = [[spearmanr(d, s).statistic for d, s in zip(dot, found, strict=True)] for found in (single, several)]
    assert min(correlation[0]) > 0.99
    assert max(correlation[1]) < 0.8


def test_scores_of_a_common_set_are_symmetric():
    train = raw_rows(N, 0)
    found = scores(train, train, BLOCKS)
    np.testing.assert_allclose(found, found.T, rtol=1e-4, atol=1e-5 * np.abs(found).max())


@pytest.mark.parametrize("method", [DataInf(DataInfOptions()), LiSSA(LiSSAOptions())], ids=lambda m: m.name)
@pytest.mark.parametrize(("size", "counts"), [(0, False), (1e-9, False), (1e-4, True)])
def test_a_block_without_any_gradient_but_rounding_takes_no_part(method, size, counts):
    """A small one does: relative damping makes it as large as the others."""
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    train[:, BLOCKS["b"]] *= size
    asked[:, BLOCKS["b"]] *= size
    found = method.fit(InMemory(train).train(method, BLOCKS), context()).scores(InMemory(asked).query(method))
    others = {"a": BLOCKS["a"], "c": slice(5, 11)}
    kept = np.delete(np.arange(K), 5)
    scorer = method.fit(InMemory(train[:, kept]).train(method, others), context())
    without = scorer.scores(InMemory(asked[:, kept]).query(method))
    assert np.isfinite(found).all()
    assert np.allclose(found, without, rtol=1e-4, atol=1e-4 * np.abs(without).max()) != counts


def test_relative_damping_counts_the_parameters_and_not_the_numbers_that_a_sketch_leaves():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    sizes = {"a": 5, "b": 1000, "c": 70}
    found = scores(train, asked, BLOCKS, sizes)
    expected = sum(
        literal(train[:, part], asked[:, part], relative(train[:, part], sizes[name])) for name, part in BLOCKS.items()
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert np.abs(found - scores(train, asked, BLOCKS)).max() > 0.1 * np.abs(found).max()


def test_concatenated_timesteps_are_one_long_gradient():
    steps = 3
    train, asked = raw_rows(N, 0, steps * K), raw_rows(M, 1, steps * K)
    stacked = scores(train.reshape(N, steps, K), asked.reshape(M, steps, K), concatenate=True)
    np.testing.assert_allclose(stacked, scores(train, asked), rtol=1e-3, atol=1e-5 * np.abs(stacked).max())
    layers = {"a": slice(0, 5), "b": slice(5, K)}
    together = scores(train.reshape(N, steps, K), asked.reshape(M, steps, K), layers)
    order = np.arange(steps * K).reshape(steps, K)
    apart = {"a": order[:, :5].ravel(), "b": order[:, 5:].ravel()}
    parts = (scores(train[:, chosen], asked[:, chosen]) for chosen in apart.values())
    np.testing.assert_allclose(together, sum(parts), rtol=1e-3, atol=1e-5 * np.abs(together).max())


def test_storage_is_the_preconditioned_rows():
    method = DataInf(DataInfOptions())
    scorer = method.fit(InMemory(raw_rows(N, 0)).train(method), context())
    assert (scorer.size().rows, scorer.size().shared, scorer.size().index) == (4 * N * K, 0, 0)


@pytest.mark.parametrize(("blocks", "layers"), [("parameter", "parameter"), ("module", "module"), ("single", "all")])
@pytest.mark.parametrize(("concatenate", "timesteps"), [(False, "mean"), (True, "stack")])
def test_features_are_sketches_of_each_block_and_lissa_has_the_same(blocks, layers, concatenate, timesteps):
    options = {"blocks": blocks, "concatenate": concatenate, "v": 99}
    request = DataInf(DataInfOptions(**options)).features()
    assert request == LiSSA(LiSSAOptions(**options)).features()
    assert request.train == request.query
    (rows,) = request.train
    assert (rows.layers, rows.timesteps, rows.sketch.length) == (layers, timesteps, 99)
    assert DataInf(DataInfOptions(v=None)).features().train[0].sketch is None
