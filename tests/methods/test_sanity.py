"""The sanity rows, and what every method over rows must get right."""

import numpy as np
import pytest
from torch import nn

from attrbench.contracts.metric import Outcome
from attrbench.metrics.retrieval import DetectionRate
from attrbench_methods.controls.sanity import OtherSeed, SanityOptions, Shuffled, ShuffledOptions, Untrained
from attrbench_methods.first_order.diffusion_retrac import DiffusionReTrac, ReTracOptions
from attrbench_methods.first_order.dmin import DMin, DMinOptions
from attrbench_methods.first_order.grad_cos import GradCos
from attrbench_methods.gradient_options import MeanGradientOptions
from attrbench_methods.kernel.das import DAS, DASOptions
from attrbench_methods.kernel.journey_trak import JourneyOptions, JourneyTRAK
from attrbench_methods.second_order.datainf import DataInf, DataInfOptions
from attrbench_methods.second_order.lissa import LiSSA, LiSSAOptions, ReleasedLiSSA, ReleasedLiSSAOptions
from tests.methods.in_memory import (
    InMemory,
    Small,
    SmallTask,
    context,
    no_model,
    raw_rows,
    scores_by_run,
    seeded,
    small_items,
)

N, M, K, STEPS = 20, 6, 12, 3
LAYERS = {"a": slice(0, 5), "b": slice(5, K)}


# --- shuffled


def stacked(count, seed):
    return raw_rows(count, seed, STEPS * K).reshape(count, STEPS, K)


def scores_of(method, train, asked, seed=0):
    return method.fit(InMemory(train).train(method), context(seed)).scores(InMemory(asked).query(method))


def shuffled(train, asked, seed=0, **options):
    return scores_of(Shuffled(ShuffledOptions(**options)), train, asked, seed)


def test_shuffled_deals_the_scores_of_dmin_out_anew_alike_for_all_queries():
    train, asked = stacked(N, 0), stacked(M, 1)
    dmin, found = scores_of(DMin(DMinOptions()), train, asked), shuffled(train, asked)
    order = np.array([int(np.flatnonzero(dmin[0] == score)[0]) for score in found[0]])
    assert sorted(order) == list(range(N))
    assert (order != np.arange(N)).sum() > N / 2
    np.testing.assert_array_equal(found, dmin[:, order])


def test_the_shuffle_is_decided_by_seed_and_draw():
    train, asked = stacked(N, 0), stacked(M, 1)
    first = shuffled(train, asked)
    np.testing.assert_array_equal(shuffled(train, asked), first)
    assert not np.array_equal(shuffled(train, asked, draw=1), first)
    assert not np.array_equal(shuffled(train, asked, seed=1), first)


def test_shuffled_detects_at_chance_where_dmin_detects_everything():
    """Five groups of eight around directions of their own."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(5, STEPS, K))
    groups, query_groups = np.arange(40) % 5, np.arange(10) % 5
    train = centers[groups] + 0.05 * rng.normal(size=(40, STEPS, K))
    asked = centers[query_groups] + 0.05 * rng.normal(size=(10, STEPS, K))
    relevant = query_groups[:, None] == groups

    def detection(found):
        (entry,) = DetectionRate().compute(Outcome(np.argsort(-found, axis=1), relevant), [5])
        return entry.values.mean()

    assert detection(scores_of(DMin(DMinOptions()), train, asked)) == 1
    draws = np.array([detection(shuffled(train, asked, draw=draw)) for draw in range(200)])
    error = draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean() - 8 / 40) < 4 * error < 0.05


@pytest.mark.parametrize("kind", [Shuffled, Untrained, OtherSeed])
def test_sanity_rows_have_the_features_of_dmin(kind):
    options = {"timesteps": 3, "v": 64, "seed": 7, "noise_seed": 1, "grid": "uniform"}
    request, dmin = kind(kind.Options(**options)).features(), DMin(DMinOptions(**options)).features()
    if kind is Shuffled:
        assert request == dmin
    else:
        (rows,) = dmin.train
        source = rows.source.model_copy(update={"checkpoint": kind.name})
        assert request.train == request.query == (rows.model_copy(update={"source": source}),)


def test_storage_of_the_shuffle_is_counted():
    rows = InMemory(stacked(N, 0))
    methods = (DMin(DMinOptions()), Shuffled(ShuffledOptions()))
    dmin, found = (method.fit(rows.train(method), context()) for method in methods)
    assert found.size().rows == dmin.size().rows
    assert found.size().shared == 8 * N


# --- untrained


def test_untrained_is_dmin_on_the_untrained_network(tmp_path):
    shape = (2, 3, 3)

    def network():
        return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 1))

    trained = Small(seeded(network, 5), shape)
    train, queries = small_items(8, shape), small_items(3, shape, 1)
    options = "timesteps=2,v=64,grid=uniform,noise=per-item"
    untrained, dmin = scores_by_run(
        SmallTask(trained, train, queries), tmp_path, f"untrained:{options}", f"dmin:{options}"
    )
    (fresh,) = scores_by_run(SmallTask(trained.at("untrained"), train, queries), tmp_path / "fresh", f"dmin:{options}")
    np.testing.assert_allclose(untrained, fresh, atol=1e-6)
    assert np.abs(untrained - dmin).max() > 0.1


def test_untrained_needs_no_more_than_the_rows():
    train, asked = stacked(N, 0), stacked(M, 1)
    found = scores_of(Untrained(SanityOptions()), train, asked)
    np.testing.assert_array_equal(found, scores_of(DMin(DMinOptions()), train, asked))


# --- other seed


class Twice(Small):
    """Trained with two seeds."""

    def has_other_seed(self):
        return True

    def _load(self, checkpoint):
        return seeded(two_layers, 9)


def two_layers():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 1))


def test_other_seed_is_dmin_on_the_model_of_the_other_seed(tmp_path):
    shape = (2, 3, 3)
    train, queries = small_items(8, shape), small_items(3, shape, 1)
    options = "timesteps=2,v=64,grid=uniform"
    own, other = Twice(seeded(two_layers, 5), shape), Small(seeded(two_layers, 9), shape)
    found, dmin = scores_by_run(
        SmallTask(own, train, queries), tmp_path / "own", f"other-seed:{options}", f"dmin:{options}"
    )
    (expected,) = scores_by_run(SmallTask(other, train, queries), tmp_path / "other", f"dmin:{options}")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - dmin).max() > 0.1


# --- every method over rows: the order of the training set, duplicates, zeros, a single item


def of_rows(method, layers=None, denoiser=no_model):
    def scores(train, asked):
        scorer = method.fit(InMemory(train).train(method, layers), context(denoiser=denoiser))
        return scorer.scores(InMemory(asked).query(method))

    return scores


def das(train, asked):
    """With losses that belong to the rows, so that they move with them."""
    losses = np.abs(train[:, :3]).astype("f4")
    method = DAS(DASOptions())
    features = InMemory(train).train(method, outputs=losses)
    return method.fit(features, context()).scores(InMemory(asked).query(method))


METHODS = {
    "datainf": of_rows(DataInf(DataInfOptions()), LAYERS),
    "datainf single": of_rows(DataInf(DataInfOptions(blocks="single"))),
    "datainf identity": of_rows(DataInf(DataInfOptions(hessian="identity")), LAYERS),
    "lissa": of_rows(LiSSA(LiSSAOptions()), LAYERS),
    "lissa single": of_rows(LiSSA(LiSSAOptions(blocks="single"))),
    "lissa-released": of_rows(ReleasedLiSSA(ReleasedLiSSAOptions(step=0.01)), LAYERS),
    "grad-cos": of_rows(GradCos(MeanGradientOptions())),
    "diffusion-retrac": of_rows(DiffusionReTrac(ReTracOptions()), denoiser=lambda: None),
    "journey-trak": of_rows(JourneyTRAK(JourneyOptions())),
    "das": das,
    "untrained": of_rows(Untrained(SanityOptions())),
    "other-seed": of_rows(OtherSeed(SanityOptions())),
}
METHODS_AND_SAMPLED = METHODS | {"lissa sampled": of_rows(LiSSA(LiSSAOptions(blocks="single", batch=4)))}
"""The draws of sampled LiSSA are of places in the training set: other items stand there in another order."""

over_rows = pytest.mark.parametrize("scores", METHODS.values(), ids=METHODS)
over_all_rows = pytest.mark.parametrize("scores", METHODS_AND_SAMPLED.values(), ids=METHODS_AND_SAMPLED)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@over_rows
def test_permuting_the_training_set_permutes_the_scores(scores):
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    order = np.random.default_rng(3).permutation(N)
    assert_close(scores(train[order], asked), scores(train, asked)[:, order])


@over_all_rows
def test_duplicates_score_equally(scores):
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    train[5] = train[17]
    found = scores(train, asked)
    np.testing.assert_allclose(found[:, 5], found[:, 17], rtol=1e-4, atol=1e-5 * np.abs(found).max())
    assert np.abs(found[:, 5] - found[:, 16]).max() > 1e-3 * np.abs(found).max()


@over_all_rows
def test_items_and_queries_of_zero_gradients_score_zero_and_spoil_nothing(scores):
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    train[4], asked[2] = 0, 0
    found = scores(train, asked)
    assert np.isfinite(found).all()
    assert not found[:, 4].any()
    assert not found[2].any()
    assert np.abs(np.delete(found, 4, axis=1)[[0, 1, 3, 4, 5]]).min() > 0


@pytest.mark.parametrize("width", [K, 2 * N])
@over_rows
def test_a_training_set_of_zero_gradients_scores_zero(scores, width):
    assert not scores(np.zeros((N, width)), raw_rows(M, 1, width)).any()


@pytest.mark.parametrize("width", [K, 2 * N])
def test_a_training_set_of_zero_gradients_scores_zero_where_it_is_sampled(width):
    assert not METHODS_AND_SAMPLED["lissa sampled"](np.zeros((N, width)), raw_rows(M, 1, width)).any()


@over_all_rows
def test_one_training_item_is_enough(scores):
    found = scores(raw_rows(1, 0), raw_rows(M, 1))
    assert found.shape == (M, 1)
    assert np.isfinite(found).all()
    assert found.any()


@over_all_rows
def test_queries_score_together_as_they_do_alone(scores):
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    together = scores(train, asked)
    for q in range(M):
        assert_close(scores(train, asked[q : q + 1])[0], together[q])


@over_rows
def test_an_opposed_query_scores_the_opposite(scores):
    train, asked = raw_rows(N, 0), raw_rows(M, 1)
    sign = 1 if scores is das else -1
    assert_close(scores(train, -asked), sign * scores(train, asked))


def test_every_item_is_the_nearest_to_itself_by_its_cosine():
    train = raw_rows(N, 0)
    found = METHODS["grad-cos"](train, train)
    assert (found.argmax(axis=1) == np.arange(N)).all()
    np.testing.assert_allclose(np.diag(found), 1, rtol=1e-5)
