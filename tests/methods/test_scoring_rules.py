"""DMin and GradDot score by the inner products and cosines of gradients that their formulas name."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attrbench.contracts.computation import Engine
from attrbench.contracts.denoiser import Encoded
from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.contracts.method_results import Transformed
from attrbench.contracts.samples import Batch
from attrbench.errors import UsageError
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import QueryProducts, QueryRows, TrainProducts
from attrbench.gradients.backends import per_sample_gradients
from attrbench.gradients.gradient_pass import GradientPass, Split
from attrbench.gradients.model_outputs import MODEL_OUTPUTS, loss
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.search.exact import ExactSearch
from attrbench.store.shards import FeatureStore, Unit
from attrbench_methods.first_order.dmin import DMin, DMinOptions
from attrbench_methods.first_order.grad_dot import GradDot
from attrbench_methods.first_order.product_scorer import ProductScorer
from attrbench_methods.gradient_options import GradientOptions
from tests.methods.in_memory import query_features, train_features
from tests.methods.twelve_items import COUNT, STEPS, context

PRODUCTS = GradientProducts(source=GradientSource())
ROWS = GradientRows(source=GradientSource(), sketch=None)


def of_products(view):
    """One set of queries with these products."""
    return QueryFeatures(np.arange(len(view.values)), {PRODUCTS: view})


# --- an example worked by hand: T = 2, cosines 1 and 0, inner products 50 and 0


G_QUERY = np.array([[3, 4], [0, 2]], np.float32)
G_ITEM = np.array([[6, 8], [5, 0]], np.float32)


@pytest.mark.parametrize(("normalize", "tau"), [(True, 1), (False, 50)])
def test_worked_example_from_products(normalize, tau):
    values = (G_QUERY * G_ITEM).sum(1)[None, None]
    norms = [np.linalg.norm(g, axis=1)[None] for g in (G_QUERY, G_ITEM)]
    scorer = ProductScorer(PRODUCTS, normalize)
    assert scorer.scores(of_products(QueryProducts(values, *norms, bytes_if_kept=16))).tolist() == [[tau]]
    assert scorer.size().rows_if_kept == 16


@pytest.mark.parametrize(("normalize", "tau"), [(True, 1), (False, 50)])
def test_worked_example_from_rows(normalize, tau):
    (q, q_norms), (i, i_norms) = (
        (g / np.linalg.norm(g, axis=1)[:, None], np.linalg.norm(g, axis=1)) for g in (G_QUERY, G_ITEM)
    )
    rows = SimpleNamespace(
        count=1, width=4, norms=i_norms[None], blocks=lambda: iter([(0, i[None])]), codes=lambda: None
    )
    query = QueryFeatures(np.arange(1), {ROWS: QueryRows(q[None], q_norms[None])})
    assert ExactSearch(rows, ROWS, normalize).scores(query)[0, 0] == pytest.approx(tau, rel=1e-6)


def test_worked_example_of_means_before_the_product():
    """In the same example, the mean gradients' product is the mean over all pairs of timesteps, matching or not."""
    mean_q, mean_i = G_QUERY.mean(0, keepdims=True), G_ITEM.mean(0, keepdims=True)
    norms = [np.linalg.norm(g, axis=1)[None] for g in (mean_q, mean_i)]
    values = (mean_q * mean_i).sum(1)[None, None]
    query = of_products(QueryProducts(values, *norms, bytes_if_kept=8))
    assert ProductScorer(PRODUCTS, False).scores(query).tolist() == [[20.25]]
    assert (G_QUERY @ G_ITEM.T).tolist() == [[50, 15], [16, 0]] and (G_QUERY @ G_ITEM.T).sum() / 4 == 20.25


def test_all_zero_gradients_score_zero():
    values, norms = np.zeros((1, 2, 1), np.float32), np.array([[2.0]], np.float32)
    train_norms = np.array([[0.0], [1.0]], np.float32)
    for query_norms in (norms, np.zeros_like(norms)):
        query = of_products(QueryProducts(values, query_norms, train_norms))
        assert ProductScorer(PRODUCTS, True).scores(query).tolist() == [[0, 0]]


# --- DMin without compression, and with a sketch, on a network


@pytest.fixture
def dmin_scores(tmp_path, tiny_denoiser, tiny_items):
    """[n, n] scores where the training items are the queries."""

    def scores(method):
        split, unit = Split("train", tiny_items), Unit(0, COUNT)
        (feature,) = method.features().train
        whole = Transformed(GradientPass(feature.source, tiny_denoiser, split, Engine()).whole(unit))
        store = FeatureStore(tmp_path, {"feature": repr(feature)})
        store.folder.mkdir(parents=True, exist_ok=True)
        store.path(unit).unlink(missing_ok=True)
        store._verified.clear()
        GradientPass(feature.source, tiny_denoiser, split, Engine(), {feature: whole}).compute(unit, {feature: store})
        data = store.read(unit)
        if "products" in data:
            values = data["products"].transpose(2, 0, 1)
            query = query_features(method, COUNT, products=QueryProducts(values, data["query_norms"], data["norms"]))
            train = train_features(method, COUNT, products=TrainProducts({}))
            return method.fit(train, context()).scores(query)
        rows = SimpleNamespace(
            count=COUNT,
            width=data["rows"][0].size,
            norms=data["norms"],
            blocks=lambda: iter([(0, data["rows"])]),
            codes=lambda: None,
        )
        query = query_features(method, COUNT, rows=QueryRows(data["rows"], data["norms"]))
        return method.fit(train_features(method, COUNT, rows=rows), context()).scores(query)

    return scores


def dmin(**options):
    return DMin(DMinOptions(timesteps=STEPS, grid="uniform", **options))


def test_dmin_is_at_most_the_number_of_timesteps_which_self_reaches(dmin_scores):
    scores = dmin_scores(dmin(v=None))
    assert np.abs(scores).max() <= STEPS + 1e-4
    np.testing.assert_allclose(np.diag(scores), STEPS, rtol=1e-5)
    assert (scores.argmax(axis=1) == np.arange(COUNT)).all()
    assert scores[~np.eye(COUNT, dtype=bool)].max() < STEPS - 1e-3
    np.testing.assert_allclose(scores, scores.T, atol=1e-4)


def test_grad_dot_is_a_gram_matrix(dmin_scores):
    scores = dmin_scores(GradDot(GradientOptions(timesteps=STEPS, grid="uniform")))
    np.testing.assert_allclose(scores, scores.T, rtol=1e-3, atol=1e-5 * scores.max())
    assert np.linalg.eigvalsh(scores.astype("f8")).min() > -1e-5 * scores.max()
    np.testing.assert_allclose(scores, dmin_scores(dmin(v=None, normalize=False)))


def test_dmin_with_a_sketch_as_long_as_the_gradient_is_dmin_without_compression(dmin_scores, tiny_denoiser):
    p = sum(parameter.numel() for parameter in tiny_denoiser.module.parameters())
    whole = dmin_scores(dmin(v=None))
    np.testing.assert_allclose(dmin_scores(dmin(v=p)), whole, atol=1e-4)
    spread = np.sqrt(2 * STEPS / 4096)
    assert np.abs(dmin_scores(dmin(v=4096)) - whole).max() < 5 * spread


@pytest.mark.parametrize("weight", [lambda predicted: 7.0, lambda predicted: predicted.detach().flatten(1).norm(dim=1)])
def test_dmin_does_not_depend_on_a_positive_scale_of_the_loss(dmin_scores, monkeypatch, weight):
    """Not even on one that differs from item to item and from timestep to timestep; GradDot does."""
    before, dot_before = dmin_scores(dmin(v=None)), dmin_scores(dmin(v=None, normalize=False))
    monkeypatch.setitem(MODEL_OUTPUTS, "loss", lambda predicted, target: weight(predicted) * loss(predicted, target))
    np.testing.assert_allclose(dmin_scores(dmin(v=None)), before, atol=1e-4)
    assert not np.allclose(dmin_scores(dmin(v=None, normalize=False)), dot_before, rtol=0.1)


@pytest.mark.parametrize("options", [{"v": None}, {"v": 64, "seed": 1}], ids=str)
def test_permuting_the_training_items_permutes_the_scores(dmin_scores, tiny_items, options):
    before = dmin_scores(dmin(**options))
    order = np.random.default_rng(0).permutation(COUNT)
    images = tiny_items.images.copy()
    try:
        tiny_items.images[:] = images[order]
        after = dmin_scores(dmin(**options))
    finally:
        tiny_items.images[:] = images
    np.testing.assert_allclose(after, before[np.ix_(order, order)], atol=1e-4)


def test_approximate_search_needs_a_sketch():
    with pytest.raises(ValueError, match="search=hnsw"):
        DMinOptions(v=None, search="hnsw")


def test_k_larger_than_the_training_set_is_refused():
    with pytest.raises(UsageError, match="k=13"):
        dmin(search="hnsw", k=13).check(COUNT)


@pytest.mark.parametrize(
    "options",
    [{"search": "hnsw", "ef": 12}, {"search": "faiss"}, {"search": "faiss", "index": "SQ8", "rerank": 2}],
)
def test_search_that_looks_at_every_item_equals_exact(options, tmp_path):
    values = np.random.default_rng(0).normal(size=(COUNT, 2, 5)).astype("f4")
    rows = SimpleNamespace(
        count=COUNT,
        width=10,
        norms=np.ones((COUNT, 2), "f4"),
        take=lambda items: values[items],
        blocks=lambda: iter([(0, values)]),
        codes=lambda: None,
    )
    method = dmin(**options)
    query = query_features(method, 4, rows=QueryRows(values[:4], rows.norms[:4]))
    scorer = method.fit(train_features(method, COUNT, rows=rows), context(tmp_path))
    np.testing.assert_array_equal(scorer.top(query, 6).ids, scorer.exact().top(query, 6).ids)


# --- GradDot is the first-order effect of a training step


class DoubleDenoiser(DDPMDenoiser):
    def encode(self, images, prompts, image_range):
        return Encoded(super().encode(images, prompts, image_range).latents.double())


@pytest.fixture(scope="module")
def double_denoiser(tiny_denoiser):
    denoiser = copy.deepcopy(tiny_denoiser)
    denoiser.__class__ = DoubleDenoiser
    denoiser.module.double()
    return denoiser


@pytest.mark.parametrize("item", [5, 8])
def test_grad_dot_predicts_what_a_training_step_does_to_the_loss_of_the_query(
    double_denoiser, tiny_items, tmp_path, item
):
    """One SGD step of size eta on an item changes the query's loss by -eta tau + O(eta^2)."""
    method = GradDot(GradientOptions(timesteps=1, grid="uniform"))
    encoded = double_denoiser.encode(tiny_items.images, tiny_items.prompts, "model").latents
    noise = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    t = torch.tensor([400])

    def batch(i):
        noisy = double_denoiser.noisy(encoded[i : i + 1], noise[None], t)
        return Batch(noisy, noise[None], t, {})

    engine = per_sample_gradients(double_denoiser, double_denoiser.attributed_parameters("all"), loss)

    def gradient(i):
        whole = torch.zeros(1, engine.total, dtype=torch.float64)
        engine(batch(i), lambda offset, g: whole[:, offset : offset + g.shape[1]].copy_(g))
        return whole

    mine, other = gradient(0), gradient(item)
    norms = [g.norm(dim=1, keepdim=True).numpy() for g in (mine, other)]
    query = query_features(method, 1, products=QueryProducts((mine @ other.T)[:, :, None].numpy(), *norms))
    train = train_features(method, 1, products=TrainProducts({}))
    tau = float(method.fit(train, context(tmp_path)).scores(query)[0, 0])

    def change(eta):
        stepped = copy.deepcopy(double_denoiser)
        optimizer = torch.optim.SGD(stepped.module.parameters(), lr=eta)
        b, q = batch(item), batch(0)
        loss(stepped.predict(b.noisy, b.t, {}), b.target).sum().backward()
        with torch.no_grad():
            before = loss(stepped.predict(q.noisy, q.t, {}), q.target)
            optimizer.step()
            return float(loss(stepped.predict(q.noisy, q.t, {}), q.target) - before)

    assert change(1e-6) / (-1e-6 * tau) == pytest.approx(1, abs=1e-3)
    errors = [abs(change(eta) + eta * tau) for eta in (1e-3, 1e-4)]
    assert 30 < errors[0] / errors[1] < 300  # second order


# --- what is declared


def test_declared_grid_is_the_one_asked_for():
    source = DMin(DMinOptions(timesteps=7, grid="uniform", noise="per-item", noise_seed=3)).features().train[0].source
    assert (source.grid, source.noise, source.noise_seed) == (TimestepGrid(kind="uniform", steps=7), "per-item", 3)
    assert source.output == "loss"
