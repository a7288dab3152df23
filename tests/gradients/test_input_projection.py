"""The random matrices that project layers' inputs: signs that follow from a seed, and what they keep in expectation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attrbench.gradients.sketching.input_projection import WIDTH, InputProjection

TRIALS = 400
OUTPUTS, INPUTS = 5, 30


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_matrix_is_the_same_in_every_process_and_version():
    """The words are splitmix64's by plain Python integers."""
    words = (InputProjection(42).matrix("block.weight", 3) > 0).int().tolist()
    assert [f"{int(''.join(map(str, word)), 2):016x}" for word in words] == PINNED


PINNED = ["a5ae8649269aab1c", "9817e3a993861e2d", "f849c7249f999a5a"]


@given(st.integers(0, 2**63 - 1), st.text(max_size=20), st.integers(1, 100), st.integers(1, 100))
def test_matrix_of_more_inputs_continues_that_of_fewer(seed, weight, fewer, more):
    fewer, more = sorted((fewer, more))
    projection = InputProjection(seed)
    short, long = projection.matrix(weight, fewer), projection.matrix(weight, more)
    assert long.shape == (more, WIDTH)
    assert torch.equal(long[:fewer], short)
    assert torch.equal(long.abs(), torch.full_like(long, WIDTH**-0.5))


def test_matrices_of_other_seeds_and_of_other_layers_are_independent():
    matrices = [InputProjection(seed).matrix(weight, 500) for seed in (0, 1) for weight in ("a.weight", "b.weight")]
    for i, left in enumerate(matrices):
        for right in matrices[:i]:
            assert abs(float((left * right).mean()) * WIDTH) < 4 / math.sqrt(left.numel())


def test_matrix_times_its_transpose_is_the_identity_in_expectation():
    total = sum(
        InputProjection(seed).matrix("w", INPUTS) @ InputProjection(seed).matrix("w", INPUTS).T
        for seed in range(TRIALS)
    )
    error = total / TRIALS - torch.eye(INPUTS)
    assert error.diagonal().abs().max() < 1e-6
    assert error.square().mean().sqrt() == pytest.approx(1 / math.sqrt(WIDTH * TRIALS), rel=0.1)


def gradients(kind):
    """Weight gradients of two samples, [2, O * I], of full rank or of a single position."""
    if kind == "one position":
        pair = torch.einsum("bo,bi->boi", drawn(2, OUTPUTS), drawn(2, INPUTS, seed=1))
    else:
        pair = drawn(2, OUTPUTS, INPUTS)
    pair[1] += pair[0]
    return pair.flatten(1)


@pytest.mark.parametrize("kind", ["full rank", "one position"])
def test_inner_products_are_unbiased_with_the_variance_of_the_formula(kind):
    pair = gradients(kind)
    found = torch.stack([InputProjection(seed).of_gradients("w", OUTPUTS, pair) for seed in range(TRIALS)])
    products = (found[:, 0] * found[:, 1]).sum(1)
    left, right = pair.unflatten(1, (OUTPUTS, INPUTS))
    m = left.T @ right
    variance = float((m.square().sum() + (m * m.T).sum() - 2 * m.diagonal().square().sum()) / WIDTH)
    assert abs(float(products.mean() - pair[0] @ pair[1])) < 4 * math.sqrt(variance / TRIALS)
    assert 0.85 < float(products.std()) / math.sqrt(variance) < 1.15


def test_rows_of_a_weight_are_projected_by_the_matrix_of_its_name():
    projection, pair = InputProjection(7), gradients("full rank")
    found = projection.of_gradients("a.weight", OUTPUTS, pair).unflatten(1, (OUTPUTS, WIDTH))
    matrix = projection.matrix("a.weight", INPUTS).double()
    for sample in range(2):
        torch.testing.assert_close(found[sample], pair[sample].reshape(OUTPUTS, INPUTS) @ matrix)
