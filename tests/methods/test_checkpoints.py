"""TracIn (arXiv 2002.08484), GradCos and Diffusion-ReTrac (arXiv 2401.09031)."""

import numpy as np
import pytest
from pydantic import ValidationError
from torch import nn

from attrbench.contracts.denoiser import untrained
from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import Unavailable, UsageError
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.samples import NoisySamples, Split
from attrbench_methods.first_order.checkpoint_sums import CheckpointOptions, SummedScorer
from attrbench_methods.first_order.diffusion_retrac import DiffusionReTrac, ReTracOptions
from attrbench_methods.first_order.grad_cos import GradCos
from attrbench_methods.first_order.grad_dot import GradDot
from attrbench_methods.first_order.product_scorer import ProductScorer
from attrbench_methods.first_order.tracin import TracIn, TracInOptions
from attrbench_methods.gradient_options import GradientOptions, MeanGradientOptions
from attrbench_methods.kernel.trak import TRAK, RidgeOptions
from tests.methods.in_memory import (
    InMemory,
    Small,
    SmallRun,
    SmallTask,
    batch_gradients,
    context,
    everything,
    products,
    raw_rows,
    scores_by_run,
    seeded,
    small_items,
)

SHAPE = (2, 3, 3)
N, M, T, K = 7, 3, 2, 12
NAMES = ("early", "later", "last")
RATES = {"early": 1e-3, "later": 4e-3, "last": 2e-3, "final": 5e-4}


def network():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 1))


class Trained(Small):
    """With three checkpoints, which are networks drawn anew."""

    def checkpoints(self):
        return NAMES

    def learning_rate(self, checkpoint):
        return RATES[checkpoint] if checkpoint in RATES else super().learning_rate(checkpoint)

    def _load(self, checkpoint):
        return untrained(self.module, 1 + NAMES.index(checkpoint))


class Unrated(Trained):
    learning_rate = Small.learning_rate


@pytest.fixture(scope="module")
def opened():
    return SmallTask(Trained(seeded(network), SHAPE), small_items(N, SHAPE), small_items(M, SHAPE, 1))


@pytest.fixture
def scores(opened, tmp_path):
    return lambda *specs: scores_by_run(opened, tmp_path, *specs)


def gradients(opened, checkpoint):
    """[m, T, p] and [n, T, p] of the queries and the training set at a checkpoint, by plain autograd."""
    source = GradientSource(grid=TimestepGrid(kind="uniform", steps=T), noise="per-item", checkpoint=checkpoint)
    found = []
    for name, items in (("query", opened.queries), ("train", opened.train)):
        samples = NoisySamples(source, opened.denoiser, Split(name, items))
        rows = batch_gradients(samples.denoiser, everything(samples)).numpy()
        found.append(rows.reshape(T, len(items), -1).transpose(1, 0, 2))
    return found


def dots(asked, train):
    return np.einsum("mtp,ntp->mn", asked, train)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


GRID = f"timesteps={T},grid=uniform,noise=per-item"


# --- tracin


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("weights", ["mean", "learning-rate"])
@pytest.mark.parametrize(
    ("count", "names"), [(4, (*NAMES, "final")), (2, ("later", "final")), (3, ("later", "last", "final"))]
)
def test_tracin_is_the_weighted_sum_of_inner_products_over_checkpoints(
    scores, opened, count, names, weights, normalize
):
    expected = np.zeros((M, N))
    for name in names:
        asked, train = gradients(opened, name)
        weight = RATES[name] if weights == "learning-rate" else 1 / count
        expected += weight * (dots(unit(asked), unit(train)) if normalize else dots(asked, train))
    (found,) = scores(f"tracin:{GRID},checkpoints={count},weights={weights},normalize={normalize}")
    assert_close(found, expected)


def test_checkpoints_differ_so_that_leaving_one_out_shows(opened):
    found = [dots(*gradients(opened, name)) for name in (*NAMES, "final")]
    for one in range(4):
        for other in range(one):
            assert np.abs(found[one] - found[other]).max() > 0.05 * np.abs(found[one]).max()


def test_tracin_at_the_final_weights_alone_is_grad_dot(scores):
    tracin, dot = scores(f"tracin:{GRID},checkpoints=1", f"grad-dot:{GRID}")
    np.testing.assert_array_equal(tracin, dot)


def test_tracin_at_the_final_weights_by_learning_rate_is_grad_dot_times_that(scores):
    tracin, dot = scores(f"tracin:{GRID},checkpoints=1,weights=learning-rate", f"grad-dot:{GRID}")
    assert_close(tracin, RATES["final"] * dot)


def test_products_at_the_final_weights_are_those_of_grad_dot():
    request = TracIn(TracInOptions()).features()
    dot = GradDot(GradientOptions()).features()
    assert (request.train[-1],) == dot.train == dot.query
    assert [feature.source.checkpoint for feature in request.train] == ["1/4", "2/4", "3/4", "final"]
    assert all(isinstance(feature, GradientProducts) for feature in request.train)
    assert request.train == request.query


@pytest.mark.parametrize("method", ["tracin", "diffusion-retrac"])
def test_more_checkpoints_than_there_are_are_unavailable_and_nothing_is_computed(opened, tmp_path, method):
    run = SmallRun(opened, tmp_path, f"{method}:{GRID},checkpoints=5", f"grad-dot:{GRID}")
    with pytest.raises(Unavailable, match="5 checkpoints are asked for"):
        run.features(run.requests[0])
    assert {label for stage in run.plan.stages for label in stage.methods} == {f"grad-dot:{GRID}"}


def test_unknown_learning_rates_are_an_error_that_names_the_checkpoint(opened, tmp_path):
    unrated = SmallTask(Unrated(opened.denoiser.module, SHAPE), opened.train, opened.queries)
    with pytest.raises(UsageError, match="later"):
        scores_by_run(unrated, tmp_path, f"tracin:{GRID},checkpoints=2,weights=learning-rate")


@pytest.mark.parametrize("count", [1, 3, 4])
def test_equal_weights_add_up_to_one_and_need_no_model(count):
    options = CheckpointOptions(checkpoints=count)
    assert options.factors(None) == pytest.approx([1 / count] * count)
    assert len(options.names()) == count
    assert options.names()[-1] == "final"


def test_no_checkpoint_at_all_is_refused():
    with pytest.raises(ValidationError):
        TracInOptions(checkpoints=0)


def test_summed_scores_and_sizes_are_those_of_the_parts():
    rng = np.random.default_rng(0)
    parts = [products(rng.normal(size=(M, T, K)), rng.normal(size=(N, T, K))) for _ in range(3)]
    features = [GradientProducts(source=GradientSource(checkpoint=name)) for name in NAMES]
    scorers = [ProductScorer(feature, normalize=False) for feature in features]
    summed = SummedScorer(scorers, [1.0, 0.5, -2.0])
    query = QueryFeatures(np.arange(M), dict(zip(features, parts, strict=True)))
    found = summed.scores(query)
    one, other, third = (scorer.scores(query) for scorer in scorers)
    np.testing.assert_allclose(other, parts[1].values.sum(axis=2), rtol=1e-6)
    np.testing.assert_allclose(found, one + 0.5 * other - 2 * third, rtol=1e-5, atol=1e-5)
    assert (summed.size().rows, summed.size().rows_if_kept) == (0, 0)
    with pytest.raises(KeyError, match="did not declare this GradientProducts"):
        summed.scores(QueryFeatures(np.arange(M), dict(zip(features[:2], parts[:2], strict=True))))


def test_a_query_alone_has_the_scores_that_it_has_among_others(opened, tmp_path):
    run = SmallRun(opened, tmp_path, f"tracin:{GRID},checkpoints=2").compute()
    scorer, query = run.fitted(run.requests[0])
    together = scorer.scores(query)
    for q in range(M):
        assert_close(scorer.scores(query.query(q))[0], together[q])


# --- grad-cos


def test_grad_cos_is_the_cosine_of_mean_gradients(scores, opened):
    asked, train = (unit(rows.mean(axis=1)) for rows in gradients(opened, "final"))
    (found,) = scores(f"grad-cos:timesteps={T},v=none")
    assert_close(found, asked @ train.T)
    assert np.abs(found).max() <= 1 + 1e-6


def test_grad_cos_does_not_see_the_size_of_gradients():
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    sizes = np.geomspace(1e-3, 1e3, N)[:, None]
    method = GradCos(MeanGradientOptions())
    one, other = (
        method.fit(rows.train(method), context()).scores(InMemory(factor * asked).query(method))
        for rows, factor in ((InMemory(train), 1), (InMemory(sizes * train), 7))
    )
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_grad_cos_has_the_rows_of_trak():
    assert GradCos(MeanGradientOptions()).features() == TRAK(RidgeOptions()).features()


# --- diffusion-retrac


def test_retrac_is_the_inner_product_of_mean_unit_gradients(scores, opened):
    asked, train = (unit(rows).mean(axis=1) for rows in gradients(opened, "final"))
    (found,) = scores(f"diffusion-retrac:timesteps={T},v=none")
    assert_close(found, asked @ train.T)


def test_retrac_joins_every_timestep_with_every_other(scores, opened):
    """(1 / T^2) sum over s and t of the cosines of g_q^s and g_i^t."""
    asked, train = (unit(rows) for rows in gradients(opened, "final"))
    expected = np.einsum("msp,ntp->mn", asked, train) / T**2
    found, matched = scores(f"diffusion-retrac:timesteps={T},v=none", f"dmin:{GRID},v=none")
    assert_close(found, expected)
    assert np.abs(found - matched / T).max() > 0.01


@pytest.mark.parametrize("weights", ["mean", "learning-rate"])
def test_retrac_sums_over_checkpoints(scores, opened, weights):
    expected = np.zeros((M, N))
    for name in ("later", "final"):
        asked, train = (unit(rows).mean(axis=1) for rows in gradients(opened, name))
        expected += (RATES[name] if weights == "learning-rate" else 0.5) * asked @ train.T
    (found,) = scores(f"diffusion-retrac:timesteps={T},v=none,checkpoints=2,weights={weights}")
    assert_close(found, expected)


def test_retrac_takes_the_passes_of_trak():
    request = DiffusionReTrac(ReTracOptions()).features()
    (rows,) = request.train
    assert isinstance(rows, GradientRows)
    assert request.train == request.query
    assert rows.timesteps == "mean-normalized"
    assert rows.source == TRAK(RidgeOptions()).features().train[0].source


def test_retrac_counts_its_rows():
    method = DiffusionReTrac(ReTracOptions(checkpoints=2))
    features = InMemory(raw_rows(N, 0)).train(method)
    assert len(features.views) == 2
    scorer = method.fit(features, context(denoiser=lambda: None))
    assert scorer.size().rows == 2 * N * (4 * K + 4)
    assert scorer.size().rows_if_kept is None
