import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attrbench.gradients.sketching.rotation as module
from attrbench.gradients.sketching.rotation import Sketcher, sketch

BLOCK, DIRECT = 2**13, 2**14
P = 40_000
LENGTHS = [512, 1000, 4096, 8192, 12_000]  # the last is longer than BLOCK
SMALL_BLOCK, SMALL_P = 512, 10_000


def sketcher(lengths, seed, p, block=BLOCK):
    """A Sketcher whose blocks are so short that a vector of p > 2 * block numbers needs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        patch.setattr(module, "DIRECT", 2 * block)
        return Sketcher(lengths, seed, p)


def sketches(x, lengths, seed, block=BLOCK, pieces=None):
    """{v: [B, v]} of `x`, in the pieces (start, stop) in which it is added."""
    made = sketcher(lengths, seed, x.shape[1], block)
    made.start(len(x), x.dtype, x.device)
    for start, stop in pieces or [(0, x.shape[1])]:
        made.add(start, x[:, start:stop])
    return {v: made.result(v) for v in lengths}


def vectors(count, p=P, seed=0, dtype=torch.float64):
    return torch.randn(count, p, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def heavy_tailed(p, seed):
    """Student t with two degrees of freedom."""
    z = vectors(3, p, seed)
    return z[0] / (z[1:].square().mean(0)).sqrt()


def low_rank(period, p, seed=0):
    """An outer product, flattened: the same `period` numbers again and again, each time with another factor."""
    g, x = vectors(1, -(-p // period), seed)[0], vectors(1, period, seed + 1)[0]
    return torch.outer(g, x).flatten()[:p]


def comb(stride, p):
    return (torch.arange(p) % stride == 0).double()


def coherent_variance(x, y):
    return (x @ x) * (y @ y) + (x @ y) ** 2 - 2 * (x * x) @ (y * y)


def predicted_sd(x, y, v):
    """Of <Sx, Sy> under permute-sign-sum with v buckets: signs make the cross terms, a permutation spreads them."""
    p = len(x)
    return math.sqrt(coherent_variance(x, y) / v * (p - v) / (p - 1))


def products_over_seeds(pairs, lengths, seeds, block):
    """{v: [seeds, pairs] inner products of the sketches}."""
    stacked = torch.stack([vector for pair in pairs for vector in pair]).float()
    found = {v: [] for v in lengths}
    for seed in range(seeds):
        for v, z in sketches(stacked, lengths, seed, block).items():
            left, right = z.double().unflatten(0, (-1, 2)).unbind(1)
            found[v].append((left * right).sum(1))
    return {v: torch.stack(products) for v, products in found.items()}


def pairs_of(p, periods):
    x, y = vectors(2, p)
    heavy, other = heavy_tailed(p, 3), heavy_tailed(p, 9)  # no coordinate holds more than 7 % of the mass
    named = {"gaussian": (x, y), "correlated": (x, x + y), "heavy-tailed": (heavy, other)}
    named |= {"heavy-tailed with itself": (heavy, heavy)}
    for period in periods:
        outer = low_rank(period, p)
        named |= {f"low rank {period}": (outer, outer), f"two of low rank {period}": (outer, low_rank(period, p, 5))}
    return named


SEEDS = 400


@pytest.fixture(scope="module")
def trials():
    """({name: (x, y)}, {v: {name: [seeds] products}}) of vectors that take blocks of 8192."""
    named = pairs_of(P, periods=[512, 1000])
    found = products_over_seeds(named.values(), LENGTHS, SEEDS, BLOCK)
    return named, {v: dict(zip(named, products.T, strict=True)) for v, products in found.items()}


SMALL_SEEDS = 1000
SMALL_LENGTHS = [32, 100, 512, 700]


@pytest.fixture(scope="module")
def small_trials():
    """The same with blocks of 512, of vectors whose blocks or chunks are all alike."""
    named = {f"low rank {period}": (low_rank(period, SMALL_P),) * 2 for period in SMALL_LENGTHS}
    named |= {f"comb {stride}": (comb(stride, SMALL_P),) * 2 for stride in (32, 48, 100, 256)}
    named |= {"constant": (torch.ones(SMALL_P).double(),) * 2}
    found = products_over_seeds(named.values(), SMALL_LENGTHS, SMALL_SEEDS, SMALL_BLOCK)
    return named, {v: dict(zip(named, products.T, strict=True)) for v, products in found.items()}


def assert_unbiased(named, products):
    for name, (x, y) in named.items():
        error = float(products[name].mean() - x @ y)
        assert abs(error) < 4 * float(products[name].std()) / math.sqrt(len(products[name])), name


@pytest.mark.parametrize("v", LENGTHS)
@pytest.mark.slow
def test_inner_products_are_unbiased(trials, v):
    assert_unbiased(trials[0], trials[1][v])


@pytest.mark.parametrize("v", SMALL_LENGTHS)
@pytest.mark.slow
def test_inner_products_are_unbiased_where_all_blocks_are_alike(small_trials, v):
    assert_unbiased(small_trials[0], small_trials[1][v])


@pytest.mark.parametrize("v", LENGTHS)
@pytest.mark.slow
def test_spread_is_that_of_a_random_permutation(trials, v):
    """For Gaussian, heavy-tailed and low-rank vectors whose period is that of chunks, not of blocks."""
    most = 1.1 if v < BLOCK else 1.15  # blocks of v that meet as a whole add up to 3 % to low-rank vectors
    for name, (x, y) in trials[0].items():
        assert 0.9 < float(trials[1][v][name].std()) / predicted_sd(x, y, v) < most, name


@pytest.mark.parametrize("v", SMALL_LENGTHS)
@pytest.mark.slow
def test_variance_is_at_most_the_sum_of_both_stages_where_all_blocks_are_alike(small_trials, v):
    """The worst case: blocks (of max(512, v)) that meet at one shift meet coordinate by coordinate, under one sign."""
    for name, (x, y) in small_trials[0].items():
        variance = float(small_trials[1][v][name].var()) / float(coherent_variance(x, y))
        assert variance < 1.2 * (1 / v + 1 / max(SMALL_BLOCK, v)), name
        assert variance > 0.8 * (1 / v - 1 / SMALL_P), name


@pytest.mark.slow
def test_spread_of_a_sketch_much_shorter_than_a_block_does_not_suffer_where_all_blocks_are_alike(small_trials):
    named, products = small_trials
    x, y = named[f"low rank {SMALL_BLOCK}"]
    assert 0.9 < float(products[32][f"low rank {SMALL_BLOCK}"].std()) / predicted_sd(x, y, 32) < 1.1


def test_long_vectors_go_by_way_of_blocks_and_others_do_not():
    long, short = vectors(1, DIRECT + 1), vectors(1, DIRECT)
    for v in LENGTHS:
        assert torch.equal(sketches(short, [v], 0)[v], sketch(short, v, 0))
        assert not torch.allclose(sketches(long, [v], 0)[v], sketch(long, v, 0))


@pytest.mark.parametrize("v", LENGTHS)
def test_sketch_is_linear(v):
    x, y = vectors(2)
    left = sketches((2.5 * x - 3 * y)[None], [v], 7)[v]
    right = 2.5 * sketches(x[None], [v], 7)[v] - 3 * sketches(y[None], [v], 7)[v]
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


@given(
    st.sampled_from(LENGTHS),
    st.integers(DIRECT + 1, 100_000),
    st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), max_size=8),
    st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_sketch_does_not_depend_on_the_pieces_nor_on_their_order(v, p, cuts, random):
    x = vectors(2, p)
    pieces = list(pairwise(sorted({0, p, *(max(1, int(cut * p)) for cut in cuts)})))
    random.shuffle(pieces)
    torch.testing.assert_close(sketches(x, [v], 11, pieces=pieces)[v], sketches(x, [v], 11)[v], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("v", LENGTHS)
def test_sketch_does_not_depend_on_the_batch(v):
    x = vectors(4, dtype=torch.float32)
    together = sketches(x, [v], 2)[v]
    for b in range(4):
        assert torch.equal(sketches(x[b : b + 1], [v], 2)[v][0], together[b])


@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[::-1], [4096, 16_384, 8192, 2048]])
def test_lengths_asked_for_together_equal_lengths_asked_for_alone(lengths):
    x = vectors(2)
    together = sketches(x, lengths, 9)
    for v in lengths:
        torch.testing.assert_close(together[v], sketches(x, [v], 9)[v], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("p", [DIRECT + 1, 40_000])
@pytest.mark.parametrize("more", [0, 1, 5000])
def test_sketch_not_shorter_than_the_vector_is_an_isometry(p, more):
    x = vectors(3, p)
    z = sketches(x, [p + more, 512], 3)[p + more]
    torch.testing.assert_close(z @ z.T, x @ x.T, rtol=1e-12, atol=1e-12)


def assert_nested(short, long, block):
    x = vectors(2)
    alone = sketches(x, [short], 5, block)[short]
    folded = sketches(x, [long], 5, block)[long].reshape(2, -1, short).sum(1)
    torch.testing.assert_close(folded, alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("short", "long"), [(4096, 8192), (4096, 16_384), (8192, 16_384)])
def test_shorter_sketch_is_the_folded_longer_one_where_both_share_their_blocks(short, long):
    assert_nested(short, long, block=16_384)


def test_two_sketchers_built_apart_agree_whatever_else_they_sketched():
    x, other = vectors(2), vectors(3, seed=1)
    used = sketcher(LENGTHS, 4, P)
    for size, batch in ((3, other), (2, x)):
        used.start(size, x.dtype, x.device)
        used.add(0, batch)
        results = {v: used.result(v).clone() for v in LENGTHS}
    again = sketches(x, LENGTHS, 4)
    for v in LENGTHS:
        assert torch.equal(results[v], again[v])


@pytest.mark.parametrize("v", LENGTHS)
def test_result_can_be_asked_for_twice(v):
    made = sketcher(LENGTHS, 0, P)
    made.start(1, torch.float64, torch.device("cpu"))
    made.add(0, vectors(1))
    first = made.result(v).clone()
    assert torch.equal(made.result(v), first)


@pytest.mark.parametrize("v", LENGTHS)
def test_different_seeds_give_different_sketches(v):
    x = vectors(1)
    left, right = (sketches(x, [v], seed)[v] for seed in (0, 1))
    assert abs(float(torch.cosine_similarity(left, right))) < 5 / math.sqrt(v)


LONG = 2**22 + 12_345


def test_vector_of_true_size_in_pieces_equals_the_whole_one():
    lengths, x = [1000, 4096, 2**20], vectors(1, LONG, dtype=torch.float32)
    whole = Sketcher(lengths, 42, LONG)
    whole.start(1, x.dtype, x.device)
    whole.add(0, x)
    pieces = Sketcher(lengths, 42, LONG)
    pieces.start(1, x.dtype, x.device)
    for start, stop in reversed(list(pairwise([0, 3, 777_777, 2**20, 2**20 + 1, 3 * 2**20 - 5, 2**22, LONG]))):
        pieces.add(start, x[:, start:stop])
    for v in lengths:
        torch.testing.assert_close(pieces.result(v), whole.result(v), rtol=1e-4, atol=1e-3)
        assert abs(float(whole.result(v).double().square().sum()) / LONG - 1) < 5 * math.sqrt(2 / v)


def test_sketch_of_a_long_vector_is_the_same_in_every_release():
    """Cached rows outlive a release: whoever changes these numbers must raise ENGINE_VERSION."""
    x = (torch.arange(LONG) % 7 - 3).double()[None]
    z = sketch(x, 4096, 42)[0]
    assert z[:6].tolist() == [19, 10, 108, 116, 0, 0]
    assert float(z.square().sum()) == 17_346_635
