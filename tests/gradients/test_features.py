"""Features of one pass are those of each alone: rows, their means over timesteps, and rows of fewer bits."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

import copy

import numpy as np
import pytest

from attrbench.contracts.computation import Engine
from attrbench.contracts.denoiser import Encoded
from attrbench.contracts.gradient_source import Sketch
from attrbench.features.gradient_rows import GradientRows
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.store.encoding import decode_rows, encode_rows
from tests.gradients.pass_features import (
    COUNT,
    FORMS,
    SOURCE,
    assert_equal_to_rounding,
    compute,  # noqa: F401
    contents,
    measured_error,
    products_feature,
    queries,  # noqa: F401
    rows_feature,
    sketched,
    whole,  # noqa: F401
)

DTYPES = ["float32", "float16", "bfloat16", "int8"]


# --- one pass, many features


@pytest.mark.slow
def test_features_of_one_pass_equal_each_alone(compute):
    features = [
        rows_feature(64),
        rows_feature(100),
        rows_feature(64, seed=7),
        rows_feature(64, timesteps="mean"),
        rows_feature(64, dtype="int8"),
        rows_feature(100, timesteps="mean", dtype="float16"),
        rows_feature(64, layers="module"),
        rows_feature(100, layers="module", dtype="bfloat16"),
        rows_feature(64, layers="parameter", timesteps="mean"),
        *(rows_feature(64, form) for form in FORMS[1:]),
        rows_feature(100, "permutation"),
        GradientRows(source=SOURCE, sketch=None),
        GradientRows(source=SOURCE, sketch=None, timesteps="mean", dtype="int8"),
        products_feature(),
        products_feature(layers="module"),
    ]
    assert len(set(features)) == len(features)
    together = compute(features)
    for feature in features:
        expected, _ = contents(compute([feature])[feature])
        found, _ = contents(together[feature])
        assert found.keys() == expected.keys()
        for name in found:
            assert np.array_equal(found[name], expected[name]), (feature, name)


@pytest.mark.parametrize(
    ("form", "length"), [*((form, 64) for form in FORMS), ("rotation", 1000), ("permutation", 1000)]
)
def test_rows_are_the_sketches_of_the_whole_gradients(compute, whole, form, length):
    rows, norms = compute.rows(rows_feature(length, form))
    expected = whole.norm(dim=2)
    np.testing.assert_allclose(norms, expected, rtol=1e-4)
    np.testing.assert_allclose(rows, sketched(whole / expected[:, :, None], length, form), atol=2e-5)


# --- timesteps=mean


@pytest.mark.parametrize(
    ("sketch", "batch_size"),
    [(None, None), (Sketch(length=64), None), (Sketch(length=64), 7), (Sketch(length=100, form="permutation"), None)],
)
def test_mean_is_the_mean_over_timesteps_of_the_raw_rows_and_its_norm_that_of_the_sketch(compute, sketch, batch_size):
    stack, norms = compute.rows(GradientRows(source=SOURCE, sketch=sketch))
    mean, mean_norms = compute.rows(
        GradientRows(source=SOURCE, sketch=sketch, timesteps="mean"), engine=Engine(batch_size=batch_size)
    )
    expected = (stack.astype("f8") * norms[:, :, None]).mean(axis=1, keepdims=True)
    length = np.linalg.norm(expected, axis=2)
    assert (mean.shape, mean_norms.shape) == ((COUNT, 1, stack.shape[2]), (COUNT, 1))
    np.testing.assert_allclose(mean_norms, length, rtol=1e-4)
    np.testing.assert_allclose(mean, expected / length[:, :, None], atol=2e-5)


def test_mean_of_layers_is_the_mean_of_their_rows(compute):
    stack, norms = compute.rows(rows_feature(64, layers="module"))
    mean, mean_norms = compute.rows(rows_feature(64, layers="module", timesteps="mean"))
    expected = (stack.astype("f8") * norms[:, :, None]).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(mean * mean_norms[:, :, None], expected, atol=2e-5 * mean_norms.max())


# --- double precision


class DoubleDenoiser(DDPMDenoiser):
    def encode(self, images, prompts, image_range):
        return Encoded(super().encode(images, prompts, image_range).latents.double())


@pytest.mark.parametrize(
    "feature",
    [
        rows_feature(64),
        rows_feature(64, "permutation", layers="module"),
        rows_feature(64, "gaussian", timesteps="mean"),
        products_feature(),
    ],
    ids=["rotation", "permutation", "gaussian", "products"],
)
def test_network_in_double_precision_gives_the_same_features(compute, tiny_denoiser, feature):
    double = copy.deepcopy(tiny_denoiser)
    double.__class__ = DoubleDenoiser
    double.module.double()
    found, _ = contents(compute([feature], denoiser=double)[feature])
    expected, _ = contents(compute([feature])[feature])
    assert_equal_to_rounding(found, expected)


# --- storage types


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("timesteps", ["stack", "mean"])
@pytest.mark.parametrize("length", [64, 1500])
def test_rows_of_fewer_bits_are_the_full_ones_encoded_and_the_sidecar_tells_their_error(
    compute, dtype, timesteps, length
):
    full, less = (rows_feature(length, timesteps=timesteps, dtype=name) for name in ("float32", dtype))
    stores = compute([full, less])
    (exact, about_exact), (stored, about) = contents(stores[full]), contents(stores[less])
    expected = encode_rows(exact["rows"], dtype)
    for name in expected:
        np.testing.assert_array_equal(stored[name], expected[name])
    np.testing.assert_array_equal(stored["norms"], exact["norms"])
    assert about_exact[0].row_error == 0
    error = measured_error(exact["rows"], decode_rows(stored))
    assert about[0].row_error == pytest.approx(error, rel=1e-4)
    assert 1e-5 < error < {"float16": 1e-3, "bfloat16": 4e-3, "int8": 2e-2}[dtype]
