import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attrbench.contracts.computation import Engine
from attrbench.contracts.denoiser import Encoded
from attrbench.contracts.gradient_source import GradientSource, Sketch, TimestepGrid
from attrbench.contracts.method_results import Transformed
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.gradient_pass import GradientPass, Split
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.models.noise import feature_noise
from attrbench.store.shards import FeatureStore, Unit, units

SOURCE = GradientSource(grid=TimestepGrid(steps=3), noise="per-item")
WHOLE = GradientRows(source=SOURCE, sketch=None)
SKETCHED = GradientRows(source=SOURCE, sketch=Sketch(length=64))
PRODUCTS = GradientProducts(source=SOURCE)
COUNT = 12
ENGINE = Engine()


@pytest.fixture
def compute(tmp_path, tiny_denoiser, tiny_items):
    """Runs a pass into a new cache; returns {feature: {array: all items}} and the sidecars' nonfinite."""
    runs = iter(range(100))

    def run(features, size=64, engine=ENGINE, one_by_one=False, denoiser=tiny_denoiser, items=tiny_items, queries=None):
        root = tmp_path / str(next(runs))
        stores = {f: FeatureStore(root, {"feature": repr(f)}) for f in features}
        split = Split("train", items, one_by_one)
        gradient_pass = GradientPass(
            features[0].source, denoiser, split, engine, None if queries is None else {PRODUCTS: Transformed(queries)}
        )
        cut = units(COUNT, size)
        for unit in cut:
            gradient_pass.compute(unit, stores)
        found = {}
        for feature, store in stores.items():
            blocks = [store.read(unit) for unit in cut]
            found[feature] = {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}
        first = stores[features[0]]
        nonfinite = [(unit.first + row, t) for unit in cut for row, t in first.sidecar(unit).nonfinite]
        return found, nonfinite

    return run


@pytest.fixture(scope="module")
def queries(tiny_denoiser, tiny_items):
    """[T, 4, p]: the whole gradients of the first four items, as queries."""
    return GradientPass(SOURCE, tiny_denoiser, Split("query", tiny_items), Engine()).whole(Unit(0, 4))


def assert_same(a, b):
    """Equal to rounding: rows are of unit norm."""
    assert a.keys() == b.keys()
    np.testing.assert_allclose(a["rows"], b["rows"], atol=2e-5)
    np.testing.assert_allclose(a["norms"], b["norms"], rtol=1e-4)


@pytest.mark.slow
def test_rows_do_not_depend_on_batch_size(compute):
    reference = compute([SKETCHED])[0][SKETCHED]
    assert reference["rows"].shape == (COUNT, 3, 64)
    for batch_size in (1, 3):
        assert_same(compute([SKETCHED], engine=Engine(batch_size=batch_size))[0][SKETCHED], reference)


def test_rows_do_not_depend_on_the_back_end(compute):
    assert_same(compute([SKETCHED], engine=Engine("loop"))[0][SKETCHED], compute([SKETCHED])[0][SKETCHED])


def test_rows_do_not_depend_on_going_one_by_one(compute):
    assert_same(compute([SKETCHED], one_by_one=True)[0][SKETCHED], compute([SKETCHED])[0][SKETCHED])


@pytest.mark.parametrize("size", [1, 5])
def test_rows_do_not_depend_on_the_cut_into_shards(compute, size):
    assert_same(compute([SKETCHED], size=size)[0][SKETCHED], compute([SKETCHED])[0][SKETCHED])


def test_the_same_pass_twice_gives_the_same_bytes(compute):
    first, second = (compute([SKETCHED])[0][SKETCHED] for _ in range(2))
    assert np.array_equal(first["rows"], second["rows"])
    assert np.array_equal(first["norms"], second["norms"])


def test_whole_rows_have_unit_norm(compute):
    rows = compute([WHOLE])[0][WHOLE]["rows"]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=2), 1, rtol=1e-5)


def test_sketched_rows_are_the_sketches_of_the_whole_rows(compute):
    from attrbench.gradients.sketching.rotation import sketch

    found = compute([WHOLE, SKETCHED])[0]
    whole = torch.from_numpy(found[WHOLE]["rows"]).flatten(0, 1)
    expected = sketch(whole, 64, SKETCHED.sketch.seed).reshape(COUNT, 3, 64)
    np.testing.assert_allclose(found[SKETCHED]["rows"], expected, atol=2e-5)


@pytest.mark.parametrize(("item", "step"), [(0, 0), (7, 2)])
@pytest.mark.parametrize("image_range", ["model", "unit"])
def test_rows_times_norms_are_the_gradients_of_plain_diffusers_calls(
    compute, tiny_denoiser, tiny_items, item, step, image_range
):
    source = SOURCE.model_copy(update={"image_range": image_range})
    feature = GradientRows(source=source, sketch=None)
    found = compute([feature])[0][feature]
    t = (999, 962, 703)[step]
    x = torch.from_numpy(tiny_items.images[item].transpose(2, 0, 1)).float()[None] / 255
    x = x if image_range == "unit" else (x - 0.5) / 0.5
    noise = feature_noise(source, tiny_items.keys[item], t, (1, 8, 8))[None]
    unet = tiny_denoiser.module
    noisy = tiny_denoiser.scheduler.add_noise(x, noise, torch.tensor([t]))
    loss = F.mse_loss(unet(noisy, torch.tensor([t])).sample, noise)
    direct = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(unet.parameters()))]).numpy()
    assert found["norms"][item, step] == pytest.approx(np.linalg.norm(direct), rel=1e-4)
    raw = found["rows"][item, step] * found["norms"][item, step]
    np.testing.assert_allclose(raw, direct, atol=1e-5 * np.linalg.norm(direct))


def test_products_are_the_inner_products_of_whole_rows(compute, queries):
    found = compute([PRODUCTS, WHOLE], queries=queries)[0]
    rows, norms = found[WHOLE]["rows"].astype("f8"), found[WHOLE]["norms"].astype("f8")
    expected = np.einsum("itp,tmp->itm", rows * norms[:, :, None], queries.double().numpy())
    scale = norms[:, :, None] * queries.double().norm(dim=2).numpy()
    np.testing.assert_allclose(found[PRODUCTS]["products"] / scale, expected / scale, atol=1e-5)
    np.testing.assert_allclose(found[PRODUCTS]["norms"], norms, rtol=1e-6)
    np.testing.assert_allclose(found[PRODUCTS]["query_norms"], queries.norm(dim=2).T, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 5])
def test_products_do_not_depend_on_batch_size(compute, queries, batch_size):
    some = compute([PRODUCTS], queries=queries, engine=Engine(batch_size=batch_size))[0][PRODUCTS]
    reference = compute([PRODUCTS], queries=queries)[0][PRODUCTS]
    scale = reference["norms"][:, :, None] * queries.norm(dim=2).numpy()
    np.testing.assert_allclose(some["products"] / scale, reference["products"] / scale, atol=2e-5)


def test_features_of_one_pass_equal_each_alone(compute, queries):
    other_seed = GradientRows(source=SOURCE, sketch=Sketch(length=64, seed=7))
    longer = GradientRows(source=SOURCE, sketch=Sketch(length=100))
    features = [SKETCHED, WHOLE, longer, PRODUCTS, other_seed]
    together = compute(features, queries=queries)[0]
    for feature in features:
        alone = compute([feature], queries=queries)[0][feature]
        assert alone.keys() == together[feature].keys()
        for name, array in alone.items():
            assert np.array_equal(array, together[feature][name]), (feature, name)


def test_lengths_that_share_chunks_equal_each_alone_to_rounding(compute):
    features = [GradientRows(source=SOURCE, sketch=Sketch(length=v)) for v in (4096, 8192)]
    together = compute(features)[0]
    for feature in features:
        assert_same(compute([feature])[0][feature], together[feature])


def test_sketches_with_different_seeds_differ(compute):
    other = GradientRows(source=SOURCE, sketch=Sketch(length=64, seed=7))
    found = compute([SKETCHED, other])[0]
    assert np.abs(found[SKETCHED]["rows"] - found[other]["rows"]).max() > 0.01


def test_shards_that_are_done_are_not_computed_again(tmp_path, tiny_denoiser, tiny_items):
    gradient_pass = GradientPass(SOURCE, tiny_denoiser, Split("train", tiny_items), Engine())
    stores = {f: FeatureStore(tmp_path, {"feature": repr(f)}) for f in (SKETCHED, WHOLE)}
    unit = Unit(0, 2)
    gradient_pass.compute(unit, {SKETCHED: stores[SKETCHED]})
    before = stores[SKETCHED].path(unit).stat().st_mtime_ns
    gradient_pass.compute(unit, stores)
    assert stores[SKETCHED].path(unit).stat().st_mtime_ns == before
    assert stores[WHOLE].state(unit) == "done"
    assert stores[WHOLE].sidecar(unit).features_in_pass == 1


class BrokenItems(DDPMDenoiser):
    """A NaN image wherever the top left pixel has the marked value."""

    marked: int

    def encode(self, images, prompts, image_range):
        latents = super().encode(images, prompts, image_range).latents
        latents[torch.from_numpy(images[:, 0, 0, 0] == self.marked)] = torch.nan
        return Encoded(latents)


@pytest.fixture
def broken(tiny_denoiser, tiny_items):
    assert np.sum(tiny_items.images[:, 0, 0, 0] == tiny_items.images[7, 0, 0, 0]) == 1
    denoiser = copy.copy(tiny_denoiser)
    denoiser.__class__ = BrokenItems
    denoiser.marked = tiny_items.images[7, 0, 0, 0]
    return denoiser


@pytest.mark.parametrize("size", [64, 5])
def test_nan_gradient_is_listed_and_leaves_a_zero_row_and_the_others_as_they_are(compute, broken, queries, size):
    found, nonfinite = compute([SKETCHED, WHOLE, PRODUCTS], size, denoiser=broken, queries=queries)
    sound = compute([SKETCHED, WHOLE, PRODUCTS], size, queries=queries)
    assert sound[1] == []
    assert sorted(nonfinite) == [(7, 703), (7, 962), (7, 999)]
    others = np.arange(COUNT) != 7
    for feature in found:
        for name in {"rows", "products", "norms"} & found[feature].keys():
            array = found[feature][name]
            assert not array[7].any()
            assert np.isfinite(array).all()
            np.testing.assert_array_equal(array[others], sound[0][feature][name][others])


def test_whole_gradient_that_is_not_finite_is_nan_throughout(broken, tiny_denoiser, tiny_items):
    found, sound = (
        GradientPass(SOURCE, denoiser, Split("train", tiny_items), ENGINE).whole(Unit(4, 9))
        for denoiser in (broken, tiny_denoiser)
    )
    assert found[:, 3].isnan().all()
    others = [0, 1, 2, 4]
    assert torch.equal(found[:, others], sound[:, others])


def test_query_whose_gradient_is_nan_has_a_nan_norm_and_harms_no_other_query(compute, queries):
    harmed = queries.clone()
    harmed[1, 2] = torch.nan
    found, sound = (compute([PRODUCTS], queries=asked)[0][PRODUCTS] for asked in (harmed, queries))
    assert np.argwhere(np.isnan(found["query_norms"])).tolist() == [[2, 1]]
    assert not found["products"][:, 1, 2].any()
    there = np.ones((3, 4), bool)
    there[1, 2] = False
    np.testing.assert_allclose(found["products"][:, there], sound["products"][:, there], rtol=1e-6)
    np.testing.assert_array_equal(found["norms"], sound["norms"])


class Amplifier(DDPMDenoiser):
    """One layer without bias, no noise: the gradient of squared-norm is zero for an all-zero image."""

    def predict(self, noisy, t, conditioning):
        return self.module(noisy)

    def noisy(self, latents, noise, t):
        return latents


def test_all_zero_gradient_gives_zeros_and_no_nan(compute, tiny_denoiser, tiny_items):
    denoiser = copy.copy(tiny_denoiser)
    denoiser.__class__ = Amplifier
    denoiser.module = torch.nn.Conv2d(1, 1, 3, bias=False)
    source = GradientSource(output="squared-norm", grid=TimestepGrid(steps=2), image_range="unit")
    features = [GradientRows(source=source, sketch=sketch) for sketch in (None, Sketch(length=4))]
    images = tiny_items.images.copy()
    images[3] = 0
    found, nonfinite = compute(features, denoiser=denoiser, items=replace(tiny_items, images=images))
    assert nonfinite == []
    for arrays in found.values():
        assert np.isfinite(arrays["rows"]).all()
        assert not arrays["rows"][3].any()
        assert not arrays["norms"][3].any()
        assert (arrays["norms"][np.arange(COUNT) != 3] > 0).all()
