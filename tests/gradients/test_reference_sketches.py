import itertools
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.gradients.sketching.forms import FORMS, sketch_accumulator, state_bytes
from attrbench.gradients.sketching.reference import COLUMNS, padded

FLAT = [name for name, form in FORMS.items() if not form.projects_inputs]
DENSE = ["rademacher", "gaussian"]
P = 700  # two whole blocks of 256 columns and a part of a third
SEEDS = 1500


def vectors(count, p=P, seed=0, dtype=torch.float64):
    return torch.randn(count, p, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sketches(form, x, v, seed=42, pieces=None):
    made = sketch_accumulator(form, [v], seed, x.shape[1])
    made.start(len(x), x.dtype, x.device)
    for start, stop in pieces or [(0, x.shape[1])]:
        made.add(start, x[:, start:stop])
    return made.result(v)


def released_recipe(x, v):
    """The compression of DMin's released code, step by step, from torch's global generator."""
    size = v * math.ceil(len(x) / v)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        signs = torch.randint(0, 2, (size,))
        signs[signs == 0] = -1
        permutation = torch.randperm(size)
    filled = torch.cat([x, torch.zeros(size - len(x), dtype=x.dtype)])
    return (filled[permutation] * signs).reshape(v, size // v).sum(1)


def test_permutation_is_the_released_recipe():
    x = torch.arange(1.0, 12.0)
    assert torch.equal(sketches("permutation", x[None], 4)[0], released_recipe(x, 4))
    assert sketches("permutation", x[None], 4)[0].abs().sum() > 0


def test_worked_example_of_the_permutation_form():
    """By hand, p = 5 and v = 2: the mean of the estimate over all sign vectors is the inner product."""
    made = sketch_accumulator("permutation", [2], 42, 5)

    def sketched(x, signs):
        made._drawn[2] = (torch.arange(6, dtype=torch.int32), torch.tensor(signs, dtype=torch.int8))
        made.start(1, torch.float64, torch.device("cpu"))
        made.add(0, torch.tensor([x], dtype=torch.float64))
        return made.result(2)[0]

    x, y, signs = [1, 2, 3, 4, 5], [1, 0, 0, 0, 1], (1, -1, 1, 1, -1, -1)
    assert sketched(x, signs).tolist() == [2, -1]
    assert sketched(y, signs).tolist() == [1, -1]
    assert sketched(x, signs) @ sketched(y, signs) == 3
    estimates = [sketched(x, s) @ sketched(y, s) for s in itertools.product((1, -1), repeat=6)]
    assert sum(estimates) / len(estimates) == 6


@pytest.mark.parametrize("v", [1, 4, 64, 699, 700, 701, 2048])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_permutation_is_the_released_recipe_bit_for_bit(v, dtype):
    x = vectors(3, dtype=dtype)
    expected = torch.stack([released_recipe(row, v) for row in x])
    assert torch.equal(sketches("permutation", x, v), expected)


@pytest.mark.parametrize(("short", "long"), [(1, 64), (16, 64), (64, 512)])
def test_permutations_of_one_padded_length_are_nested(short, long):
    """T3: with D, signs and permutation the same, each number of the shorter is a sum of neighbors of the longer."""
    x = vectors(3, 1024)
    assert padded(1024, short) == padded(1024, long)
    folded = sketches("permutation", x, long).reshape(3, short, -1).sum(2)
    torch.testing.assert_close(folded, sketches("permutation", x, short), rtol=1e-12, atol=1e-12)


def test_every_coordinate_goes_to_one_bucket_with_a_sign_and_no_bucket_holds_more_than_its_share():
    z = sketches("permutation", torch.eye(11), 4)
    assert torch.equal(z.abs().sum(1), torch.ones(11))
    assert torch.equal(z.abs().max(1).values, torch.ones(11))
    assert (z.abs().sum(0) <= 3).all()


@pytest.mark.parametrize(("p", "v"), [(1, 1), (700, 700), (37, 50), (700, 4096)])
def test_permutation_not_shorter_than_the_vector_is_an_isometry(p, v):
    x = vectors(3, p)
    z = sketches("permutation", x, v)
    torch.testing.assert_close(z @ z.T, x @ x.T, rtol=1e-12, atol=1e-12)
    assert torch.equal(z.abs().sort(descending=True).values[:, :p], x.abs().sort(descending=True).values)


def trials(form, x, y, v, seeds=SEEDS):
    both = torch.stack([x, y])
    sketched = torch.stack([sketches(form, both, v, seed) for seed in range(seeds)])
    return (sketched[:, 0] * sketched[:, 1]).sum(1)


def pair(kind):
    x, y = vectors(2)
    return {"independent": (x, y), "correlated": (x, x + y), "same": (x, x)}[kind]


@pytest.mark.parametrize("kind", ["independent", "correlated", "same"])
@pytest.mark.parametrize("v", [50, 350])
def test_permutation_is_unbiased_with_the_variance_of_the_specification(kind, v):
    x, y = pair(kind)
    products = trials("permutation", x, y, v)
    d = padded(P, v)
    variance = (d - v) / (d - 1) / v * ((x @ x) * (y @ y) + (x @ y) ** 2 - 2 * (x * x) @ (y * y))
    assert abs(float(products.mean() - x @ y)) < 4 * math.sqrt(variance / SEEDS)
    assert 0.9 < float(products.std()) / math.sqrt(variance) < 1.1


@pytest.mark.parametrize("kind", ["correlated", "same"])
@pytest.mark.parametrize("form", DENSE)
@pytest.mark.slow
def test_dense_projections_are_unbiased_with_the_variance_of_their_entries(form, kind):
    x, y = pair(kind)
    v = 50
    products = trials(form, x, y, v)
    variance = ((x @ x) * (y @ y) + (x @ y) ** 2) / v
    if form == "rademacher":
        variance -= 2 * (x * x) @ (y * y) / v
    assert abs(float(products.mean() - x @ y)) < 4 * math.sqrt(variance / SEEDS)
    assert 0.9 < float(products.std()) / math.sqrt(variance) < 1.1


def test_rademacher_loses_nothing_of_a_single_coordinate_and_gaussian_does():
    one = torch.zeros(1, P, dtype=torch.float64)
    one[0, 300] = 2
    assert float(sketches("rademacher", one, 50).square().sum()) == pytest.approx(4, rel=1e-6)
    assert float(sketches("gaussian", one, 50).square().sum()) != pytest.approx(4, rel=1e-3)


@pytest.mark.slow
def test_all_forms_give_the_same_inner_products_in_expectation():
    x, y = pair("correlated")
    for form in FLAT:
        products = trials(form, x, y, 40, seeds=800)
        assert abs(float(products.mean() - x @ y)) < 4 * float(products.std()) / math.sqrt(800), form


@given(
    st.sampled_from(FLAT),
    st.sampled_from([50, 512, 700]),
    st.lists(st.integers(1, P - 1), max_size=6),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_no_form_depends_on_the_pieces_nor_on_their_order(form, v, cuts, random):
    x = vectors(2)
    pieces = list(pairwise(sorted({0, P, *cuts})))
    random.shuffle(pieces)
    torch.testing.assert_close(sketches(form, x, v, pieces=pieces), sketches(form, x, v), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", DENSE)
@pytest.mark.parametrize("cut", [1, 100, COLUMNS - 1, COLUMNS, COLUMNS + 1, 600])
def test_dense_projection_may_be_cut_inside_a_block_of_columns(form, cut):
    x = vectors(2)
    pieces = [(0, cut), (cut, P)]
    torch.testing.assert_close(sketches(form, x, 50, pieces=pieces), sketches(form, x, 50), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FLAT)
def test_every_form_is_linear(form):
    x, y = vectors(2)
    left = sketches(form, (2.5 * x - 3 * y)[None], 64)
    right = 2.5 * sketches(form, x[None], 64) - 3 * sketches(form, y[None], 64)
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FLAT)
def test_no_form_depends_on_the_batch(form):
    x = vectors(4)
    together = sketches(form, x, 64)
    for b in range(4):
        torch.testing.assert_close(sketches(form, x[b : b + 1], 64)[0], together[b], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FLAT)
def test_lengths_asked_for_together_equal_lengths_asked_for_alone(form):
    x, lengths = vectors(2), [64, 100, 1000]
    together = sketch_accumulator(form, lengths, 7, P)
    together.start(2, x.dtype, x.device)
    together.add(0, x)
    for v in lengths:
        assert torch.equal(together.result(v), sketches(form, x, v, 7))


@pytest.mark.parametrize("form", FLAT)
def test_starting_again_forgets_what_was_added(form):
    x = vectors(3)
    made = sketch_accumulator(form, [64], 0, P)
    for size in (3, 1):
        made.start(size, x.dtype, x.device)
        made.add(0, x[:size])
    assert torch.equal(made.result(64), sketches(form, x[:1], 64, 0))


@pytest.mark.parametrize("form", FLAT)
def test_the_seed_decides_and_different_seeds_differ(form):
    x = vectors(1)
    found = [sketches(form, x, 512, seed) for seed in (0, 1, 42)]
    for i, left in enumerate(found):
        assert torch.equal(left, sketches(form, x, 512, (0, 1, 42)[i]))
        for right in found[:i]:
            assert abs(float(torch.cosine_similarity(left, right))) < 0.25


def test_forms_do_not_share_their_draws():
    x = vectors(1)
    found = [sketches(form, x, 512) for form in FLAT]
    for i, left in enumerate(found):
        for right in found[:i]:
            assert abs(float(torch.cosine_similarity(left, right))) < 0.25


def test_permutation_keeps_five_bytes_a_padded_parameter_and_the_others_a_seed():
    assert state_bytes("permutation", 4, 11) == 5 * 12
    assert state_bytes("permutation", 4096, 797_184) == 5 * 798_720
    assert state_bytes("permutation", 2**16, 797_184) == 5 * 851_968
    assert state_bytes("permutation", 1000, 700) == 5 * 1000
    assert {state_bytes(form, 4096, 10**9) for form in ("rotation", *DENSE)} == {8}
