"""The ridge kernel methods: TRAK (arXiv 2303.14186), D-TRAK (arXiv 2311.00500) and their normalized relatives."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from attrbench.features.gradient_gram import GradientGram
from attrbench.features.views import TrainGram
from attrbench.plugins.registry import registry
from attrbench_methods.kernel import ridge
from attrbench_methods.kernel.kernel_features import SketchedMeans
from attrbench_methods.kernel.ridge import RidgeKernel, RidgeOptions, Spectrum
from attrbench_methods.kernel.trak import DTRAK, TRAK, RelativeIF, RenormIF
from tests.methods.in_memory import (
    InMemory,
    Small,
    SmallTask,
    context,
    query_features,
    scores_by_run,
    seeded,
    small_items,
    train_features,
)

N, M, K = 30, 7, 12
CONTEXT = replace(context(), depth=N)
METHODS = [TRAK, RelativeIF, RenormIF]


def phi(count, seed, width=K):
    return np.random.default_rng(seed).normal(size=(count, width)) * np.linspace(0.2, 3, width)


def scores(method, train, asked, context=CONTEXT, **options):
    kind = method.Options
    chosen = method(kind(**options))
    scorer = chosen.fit(InMemory(train).train(chosen), context)
    return scorer.scores(InMemory(asked).query(chosen)).astype("f8")


def primal(train, asked, lam):
    return asked @ np.linalg.inv(train.T @ train + lam * np.eye(train.shape[1])) @ train.T


@pytest.mark.parametrize("lam", [1e-2, 1.0, 100.0])
@pytest.mark.parametrize("width", [12, 50])
def test_dual_equals_primal(lam, width):
    train, asked = phi(N, 0, width), phi(M, 1, width)
    found = scores(TRAK, train, asked, damping=lam, damping_mode="absolute")
    np.testing.assert_allclose(found, primal(train, asked, lam), rtol=1e-4, atol=1e-4)


def test_worked_example():
    found = scores(TRAK, np.eye(2), np.array([[2.0, 1.0]]), damping=1, damping_mode="absolute")
    np.testing.assert_allclose(found, [[1, 0.5]], rtol=1e-6)


def test_large_damping_leaves_the_inner_product():
    train, asked = phi(N, 0), phi(M, 1)
    found = scores(TRAK, train, asked, damping=1e9, damping_mode="absolute") * 1e9
    np.testing.assert_allclose(found, asked @ train.T, rtol=1e-4, atol=1e-4)


def test_no_damping_and_full_rank_leave_only_the_item_itself():
    train = phi(N, 0, 100)
    found = scores(TRAK, train, train, damping=1e-8)
    np.testing.assert_allclose(found, np.eye(N), atol=1e-3)


def test_absolute_damping_scales_with_the_square_of_the_features():
    train, asked = phi(N, 0), phi(M, 1)
    one = scores(TRAK, train, asked, damping=0.7, damping_mode="absolute")
    ten = scores(TRAK, 10 * train, 10 * asked, damping=70, damping_mode="absolute")
    np.testing.assert_allclose(one, ten, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [TRAK, RelativeIF])
def test_relative_damping_does_not_see_the_scale_of_the_features(method):
    train, asked = phi(N, 0), phi(M, 1)
    one, ten = scores(method, train, asked), scores(method, 10 * train, 10 * asked)
    np.testing.assert_allclose(ten, one * (10 if method is RelativeIF else 1), rtol=1e-4, atol=1e-4)


def test_rotating_the_features_changes_nothing():
    train, asked = phi(N, 0), phi(M, 1)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(K, K)))[0]
    np.testing.assert_allclose(scores(TRAK, train @ rotation, asked @ rotation), scores(TRAK, train, asked), atol=1e-4)


def test_mean_diagonal_of_the_primal_inverse_keeps_to_its_bound():
    """(1 - n/k) / lam <= mean diag (Phi^T Phi + lam I)^-1 <= 1 / lam, from the kernel's own eigenvalues."""
    train, lam, k = phi(N, 0, 100), 0.3, 100
    kernel = RidgeKernel(Spectrum.of(train @ train.T), lam, relative=False)
    mean = ((1 / (kernel._values + lam)).sum() + (k - N) / lam) / k
    assert (1 - N / k) / lam <= mean <= 1 / lam
    direct = np.linalg.inv(train.T @ train + lam * np.eye(k))
    assert mean == pytest.approx(np.trace(direct) / k, rel=1e-6)


def test_normalised_relatives_divide_by_their_norms():
    train, asked, lam = phi(N, 0), phi(M, 1), 0.5
    options = {"damping": lam, "damping_mode": "absolute"}
    tau = primal(train, asked, lam)
    inverse = np.linalg.inv(train.T @ train + lam * np.eye(K))
    relative = tau / np.linalg.norm(train @ inverse, axis=1)
    np.testing.assert_allclose(scores(RelativeIF, train, asked, **options), relative, rtol=1e-3, atol=1e-4)
    renorm = tau / np.linalg.norm(train, axis=1)
    np.testing.assert_allclose(scores(RenormIF, train, asked, **options), renorm, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_permuting_the_training_set_permutes_the_scores(method):
    train, asked = phi(N, 0), phi(M, 1)
    order = np.random.default_rng(3).permutation(N)
    np.testing.assert_allclose(scores(method, train[order], asked), scores(method, train, asked)[:, order], atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_duplicates_score_equally(method):
    train = phi(N, 0)
    train[5] = train[17]
    found = scores(method, train, phi(M, 1))
    np.testing.assert_allclose(found[:, 5], found[:, 17], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_items_and_sets_of_zero_gradients_stay_finite(method):
    train, asked = phi(N, 0), phi(M, 1)
    train[4] = 0
    found = scores(method, train, asked)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, 4], 0)
    assert np.isfinite(scores(method, np.zeros((N, K)), asked)).all()


@pytest.mark.parametrize("method", METHODS)
def test_one_training_item_is_enough(method):
    assert np.isfinite(scores(method, phi(1, 0), phi(M, 1))).all()


def test_storage_counts_rows_norms_and_the_inverse():
    method = TRAK(RidgeOptions())
    size = method.fit(InMemory(phi(N, 0)).train(method), CONTEXT).size()
    assert (size.rows, size.shared, size.index) == (N * (4 * K + 4), 8 * N * N, 0)


def test_trak_differentiates_the_loss_and_d_trak_the_squared_norm_of_the_same_passes():
    loss, squared = (kind(kind.Options()).features() for kind in (TRAK, DTRAK))
    assert loss.train == loss.query and squared.train == squared.query
    (rows,), (squared_rows,) = loss.train, squared.train
    assert (rows.source.output, squared_rows.source.output) == ("loss", "squared-norm")
    assert rows.timesteps == "mean" and rows.source.grid.kind == "uniform"
    both = RelativeIF(RidgeOptions()).features(), RenormIF(RidgeOptions()).features()
    assert both == (loss, loss)  # one pass serves the three


def test_all_four_are_registered():
    assert {"trak", "d-trak", "relative-if", "renorm-if"} <= set(registry().names("method"))


def test_all_dampings_and_relatives_come_from_one_decomposition(tmp_path, monkeypatch):
    train, asked = phi(N, 0), phi(M, 1)
    alone = {method: scores(method, train, asked, damping=0.3) for method in (TRAK, RelativeIF)}
    decompositions, grams = [], []
    monkeypatch.setattr(ridge, "KEPT", 1)
    monkeypatch.setattr(np.linalg, "eigh", lambda gram, eigh=np.linalg.eigh: decompositions.append(1) or eigh(gram))
    gram = SketchedMeans.gram
    monkeypatch.setattr(SketchedMeans, "gram", lambda means, train: grams.append(1) or gram(means, train))
    context = replace(CONTEXT, workspace=tmp_path / "trak")
    for damping in (0.01, 0.3):
        scores(TRAK, train, asked, context=context, damping=damping)
    for method, expected in alone.items():
        np.testing.assert_array_equal(scores(method, train, asked, context=context, damping=0.3), expected)
    assert len(decompositions) == len(grams) == 1
    scores(TRAK, 2 * train, asked, context=replace(context, fingerprint="other gradients"))
    scores(TRAK, train[:20], asked, context=context)  # of the same gradients, but fewer
    assert len(decompositions) == len(grams) == 3


@pytest.mark.parametrize("method", METHODS)
def test_a_gram_matrix_scores_as_the_rows_that_it_is_of(method):
    train, asked = phi(N, 0), phi(M, 1)
    train[4] = 0
    whole = method(method.Options(v=None))
    scorer = whole.fit(train_features(whole, N, gram=TrainGram(train @ train.T, {"": K})), CONTEXT)
    found = scorer.scores(query_features(whole, M, gram=asked @ train.T))
    np.testing.assert_allclose(found, scores(method, train, asked), rtol=1e-4, atol=1e-4)
    assert not found[:, 4].any()
    size = scorer.size()
    assert (size.rows, size.rows_if_kept) == (0, 4 * N * K)
    assert size.shared >= 8 * N * N


def test_without_a_sketch_no_gradient_is_kept():
    for method in (TRAK, DTRAK):
        request = method(method.Options(v=None)).features()
        (feature,) = request.train
        assert isinstance(feature, GradientGram) and request.query == (feature,)
        assert feature.source == method(method.Options()).features().train[0].source


class BiasOnly(nn.Module):
    """Says the same of every input."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.linspace(-1, 1, 8).reshape(2, 2, 2))

    def forward(self, x):
        return self.bias.expand_as(x)


@pytest.mark.parametrize("v", ["none", "64"])
def test_a_network_that_is_all_bias_has_one_gradient_and_one_score(tmp_path, v):
    """The gradient of the output's square is 2 b / d for every x, so that all tau are equal."""
    opened = SmallTask(Small(seeded(BiasOnly), (2, 2, 2)), small_items(6, (2, 2, 2)), small_items(3, (2, 2, 2), seed=1))
    (found,) = scores_by_run(opened, tmp_path, f"d-trak:timesteps=2,v={v},damping=0.5")
    square = float((np.linspace(-1, 1, 8) * 2 / 8) @ (np.linspace(-1, 1, 8) * 2 / 8))
    # one eigenvalue, 6 |g|^2, and the mean of all six is |g|^2: tau = |g|^2 / (6 |g|^2 + 0.5 |g|^2)
    np.testing.assert_allclose(found, np.full((3, 6), square / (6.5 * square)), rtol=1e-5)
