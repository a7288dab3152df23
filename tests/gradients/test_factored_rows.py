"""Rows of the sketch `factored`: those of gradients with projected layer inputs, sketched as any others are."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

import math
from typing import get_args

import numpy as np
import pytest

from attrbench.contracts.computation import Engine
from attrbench.contracts.gradient_source import Sketch, SketchForm
from attrbench.features.outputs import Outputs
from attrbench.features.pass_computation import PassComputation
from attrbench.gradients.layer_blocks import layer_columns
from attrbench.gradients.sketching.forms import FORMS, input_projection, state_bytes
from attrbench.gradients.sketching.input_projection import InputProjection
from attrbench.models.noise import seed_of
from tests.gradients.pass_features import (
    ALL,
    SOURCE,
    compute,  # noqa: F401
    contents,
    queries,  # noqa: F401
    rows_feature,
    sketched,
    stores_of,
    whole,  # noqa: F401
)

WIDE = {"up_blocks.0.resnets.0.conv1.weight"}
"""The weights of the tiny network whose layers are wide: 32 to 16 channels at 4x4 positions."""
LONG = 10**5


def factored(length=64, **changes):
    return rows_feature(length, "factored", **changes)


@pytest.fixture(scope="module")
def parameters(tiny_denoiser):
    return tiny_denoiser.attributed_parameters("all")


def projected(whole, parameters, seed=42):
    """[n, T, p]: each wide weight's gradient times its matrix, in the first places of that weight."""
    result, start = whole.clone(), 0
    for name, parameter in parameters.items():
        places = slice(start, start + parameter.numel())
        start = places.stop
        if name in WIDE:
            part = InputProjection(seed).of_gradients(name, len(parameter), whole[:, :, places].flatten(0, 1))
            result[:, :, places] = 0
            result[:, :, places.start : places.start + part.shape[1]] = part.unflatten(0, whole.shape[:2])
    return result


def test_every_form_that_options_offer_has_one_entry_in_the_table():
    assert set(get_args(SketchForm)) == FORMS.keys()


@pytest.mark.parametrize("length", [64, 1000, 4096])
def test_rows_are_the_sketches_of_the_projected_gradients(compute, whole, parameters, length):
    rows, norms = compute.rows(factored(length))
    expected = projected(whole, parameters)
    np.testing.assert_allclose(norms, expected.norm(dim=2), rtol=1e-4)
    np.testing.assert_allclose(rows, sketched(expected / expected.norm(dim=2, keepdim=True), length), atol=2e-5)
    assert np.abs(rows - compute.rows(rows_feature(length))[0]).max() > 1e-3


@pytest.mark.parametrize("timesteps", ["mean", "mean-normalized"])
def test_rows_of_means_are_the_sketches_of_the_means_of_projected_gradients(compute, whole, parameters, timesteps):
    rows, norms = compute.rows(factored(timesteps=timesteps))
    expected = projected(whole, parameters)
    unit = expected / expected.norm(dim=2, keepdim=True)
    mean = sketched((expected if timesteps == "mean" else unit).mean(1, keepdim=True), 64)
    np.testing.assert_allclose(rows * norms[:, :, None], mean, atol=1e-4 * np.linalg.norm(mean, axis=2).max())


@pytest.mark.parametrize("cut", ["module", "parameter"])
def test_only_the_columns_of_wide_layers_differ_from_rows_of_whole_gradients(compute, whole, parameters, cut):
    (flat, flat_norms), (rows, norms) = (compute.rows(f(layers=cut)) for f in (rows_feature, factored))
    assert rows.shape == flat.shape
    blocks = compute.work().setting.layout.layers(cut)
    raw, flat_raw = rows * norms[:, :, None], flat * flat_norms[:, :, None]
    for index, (name, columns) in enumerate(layer_columns(blocks, 64).items()):
        if not any(weight.startswith(name) for weight in WIDE):
            np.testing.assert_allclose(raw[:, :, columns], flat_raw[:, :, columns], rtol=1e-4, atol=1e-6)
        elif cut == "parameter":
            start = min(blocks[index].places)
            part = projected(whole, parameters)[:, :, start : start + blocks[index].size]
            mine = sketched(part, 64, seed=seed_of("layer", 42, index))
            np.testing.assert_allclose(raw[:, :, columns], mine, atol=1e-4 * np.abs(mine).max())


@pytest.mark.parametrize("backend", ["vmap", "loop"])
def test_every_back_end_gives_the_same_rows(compute, backend):
    (rows, norms), (others, other_norms) = (compute.rows(factored(), engine=Engine(b)) for b in ("hooks", backend))
    np.testing.assert_allclose(other_norms, norms, rtol=1e-4)
    np.testing.assert_allclose(others, rows, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 5, 36])
def test_rows_do_not_depend_on_the_batch(compute, batch_size):
    rows, norms = compute.rows(factored())
    others, other_norms = compute.rows(factored(), engine=Engine(batch_size=batch_size))
    np.testing.assert_allclose(other_norms, norms, rtol=1e-4)
    np.testing.assert_allclose(others, rows, atol=1e-4)


def test_the_same_pass_gives_the_same_bytes(compute):
    (rows, norms), (again, norms_again) = (compute.rows(factored()) for _ in range(2))
    assert np.array_equal(rows, again)
    assert np.array_equal(norms, norms_again)


def test_shorter_rows_are_the_longer_ones_folded(compute):
    features = [factored(8192), factored(4096)]
    stores = compute(features)
    long, short = (contents(stores[feature])[0]["rows"].astype("f8") for feature in features)
    np.testing.assert_allclose(long.reshape(*short.shape[:2], 2, 4096).sum(2), short, atol=1e-5)


def test_inner_products_of_rows_are_unbiased(whole, parameters):
    """Of sketches of one length over seeds; by the definition, to which rows are equal."""
    pair = whole[:2, :1]
    pair = pair / pair.norm(dim=2, keepdim=True)
    seeds = 200
    found = [sketched(projected(pair, parameters, seed), 512, seed=seed) for seed in range(seeds)]
    products = np.array([left[0] @ right[0] for left, right in found])
    assert abs(products.mean() - float(pair[0, 0] @ pair[1, 0])) < 4 * products.std() / math.sqrt(seeds)


def test_a_sketch_longer_than_the_gradient_keeps_the_projection_alone(compute, whole, parameters):
    rows, norms = compute.rows(factored(LONG))
    raw = rows.astype("f8") * norms[:, :, None]
    expected = projected(whole, parameters).numpy()
    scale = float(whole.norm(dim=2).max()) ** 2
    np.testing.assert_allclose(
        np.einsum("itp,jtp->ijt", raw, raw) / scale, np.einsum("itp,jtp->ijt", expected, expected) / scale, atol=1e-5
    )


def test_features_of_several_projections_take_a_pass_each():
    features = [rows_feature(), rows_feature(form="permutation"), factored(), factored(128), factored(seed=7)]
    passes = [feature.computation("train") for feature in features]
    assert passes[0] == passes[1] == Outputs(source=SOURCE).computation("train") == PassComputation(SOURCE, "train")
    assert passes[2] == passes[3]
    assert len(set(passes)) == 3


def test_a_pass_refuses_features_of_another_projection(compute, tmp_path):
    for feature, projection in (
        (factored(), None),
        (rows_feature(), InputProjection(42)),
        (factored(seed=7), InputProjection(42)),
    ):
        with pytest.raises(ValueError, match="another projection"):
            compute.work(projection=projection).compute(ALL, stores_of(tmp_path, [feature]))


def test_nothing_but_the_seed_is_stored_and_only_this_form_projects():
    assert state_bytes("factored", 4096, 10**9) == 8
    for form in FORMS:
        expected = InputProjection(5) if form == "factored" else None
        assert input_projection(Sketch(length=64, seed=5, form=form)) == expected
    assert input_projection(None) is None
