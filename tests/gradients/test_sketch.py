import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.gradients.sketching import rotation
from attrbench.gradients.sketching.rotation import CHUNK, SIGN_VECTORS, Sketcher, chunk_length, sketch

LENGTHS = [64, 100, 1000, CHUNK, 2 * CHUNK, 3 * CHUNK]
P = 20_000
SEEDS = 700
SIZES = {50: 1500, 1000: 25_000, CHUNK: 45_000, 2 * CHUNK: 60_000}  # v: p


def vectors(count, p=P, seed=0, dtype=torch.float64):
    return torch.randn(count, p, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def predicted_sd(x, y, v):
    """Of <Sx, Sy> under permute-sign-sum with v buckets, for p much larger than v."""
    variance = (x @ x) * (y @ y) + (x @ y) ** 2 - 2 * (x * x) @ (y * y)
    return math.sqrt(variance / v)


def pairs(p):
    """Vector pairs by name, for which the inner product of the sketches is examined."""
    x, y = vectors(2, p)
    here = torch.arange(p)
    run = ((here >= p // 10) & (here < p // 10 + p // 2)).double()
    return {
        "gaussian": (x, y),
        "correlated": (x, x + y),
        "same": (x, x),
        "one run": (x * run, y * run),
        "constant run": (run, run),
    }


def combs(p=150_000):
    x, y = vectors(2, p)
    even = (torch.arange(p) // CHUNK % 2 == 0).double()
    found = {"every other chunk": (x * even, (x + y) * even)}
    for stride in (1536, 4096):
        comb = (torch.arange(p) % stride == 0).double()
        found |= {f"stride {stride}": (x * comb, (x + y) * comb), f"constant stride {stride}": (comb, comb)}
    return found


def try_seeds(named, lengths):
    """{v: {name: (x, y, [seeds] inner products of their sketches)}}."""
    stacked = torch.stack([vector for pair in named.values() for vector in pair]).float()
    products = {v: [] for v in lengths}
    for seed in range(SEEDS):
        sketcher = Sketcher(lengths, seed, stacked.shape[1])
        sketcher.start(len(stacked), stacked.dtype, stacked.device)
        sketcher.add(0, stacked)
        for v in lengths:
            left, right = sketcher.result(v).double().unflatten(0, (-1, 2)).unbind(1)
            products[v].append((left * right).sum(1))
    return {
        v: {name: (*pair, torch.stack(products[v])[:, i]) for i, (name, pair) in enumerate(named.items())}
        for v in lengths
    }


@pytest.fixture(scope="module", params=SIZES)
def trials(request):
    """(v, {name: (x, y, [seeds] inner products of their sketches)}) over many seeds."""
    v = request.param
    return v, try_seeds(pairs(SIZES[v]), [v])[v]


@pytest.fixture(scope="module")
def comb_trials():
    return try_seeds(combs(), [CHUNK, 2 * CHUNK])


@pytest.mark.slow
def test_inner_products_are_unbiased(trials):
    for name, (x, y, products) in trials[1].items():
        error = float(products.mean() - x @ y)
        assert abs(error) < 4 * float(products.std()) / math.sqrt(SEEDS) + 1e-3, name


@pytest.mark.slow
def test_spread_on_gaussian_vectors_is_that_of_a_random_permutation(trials):
    v, found = trials
    for name in ("gaussian", "correlated", "same"):
        x, y, products = found[name]
        assert 0.85 < float(products.std()) / predicted_sd(x, y, v) < 1.15, name


@pytest.mark.slow
def test_spread_does_not_suffer_where_the_mass_lies_in_one_run(trials):
    v, found = trials
    x, y, products = found["one run"]
    assert float(products.std()) < 1.3 * predicted_sd(x, y, v)


@pytest.mark.parametrize("v", [CHUNK, 2 * CHUNK])
@pytest.mark.parametrize("stride", [1536, 4096])
@pytest.mark.slow
def test_mass_at_a_constant_stride_is_unbiased_and_its_spread_does_not_suffer(comb_trials, v, stride):
    for name in (f"stride {stride}", f"constant stride {stride}"):
        x, y, products = comb_trials[v][name]
        assert abs(float(products.mean() - x @ y)) < 4 * float(products.std()) / math.sqrt(SEEDS), name
        assert float(products.std()) < 1.3 * predicted_sd(x, y, v), name


@pytest.mark.slow
def test_spread_does_not_suffer_where_the_mass_lies_in_every_other_chunk(comb_trials):
    x, y, products = comb_trials[2 * CHUNK]["every other chunk"]
    assert float(products.std()) < 1.2 * predicted_sd(x, y, 2 * CHUNK)


@pytest.mark.slow
def test_variance_hardly_grows_where_chunks_are_equal(trials):
    """The sketch's worst case: equal chunks of equal signs and shift meet coordinate by coordinate, under one sign."""
    v, found = trials
    x, y, products = found["constant run"]
    limit = (1 + 1 / SIGN_VECTORS) * predicted_sd(x, y, v) ** 2
    assert float(products.var()) < 1.2 * limit  # 1.2: four standard errors of a variance


@pytest.mark.parametrize("v", LENGTHS)
def test_sketch_is_linear(v):
    x, y = vectors(2)
    left = sketch((2.5 * x - 3 * y)[None], v, 7)
    right = 2.5 * sketch(x[None], v, 7) - 3 * sketch(y[None], v, 7)
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("p", "v"), [(1, 1), (50, 50), (37, 50), (4000, 4096), (5000, 8192), (16_384, 16_384), (9, 5000)]
)
def test_sketch_not_shorter_than_the_vector_is_an_isometry(p, v):
    x = vectors(3, p)
    z = sketch(x, v, 3)
    torch.testing.assert_close(z @ z.T, x @ x.T, rtol=1e-12, atol=1e-12)
    assert torch.equal(z.abs().sort(descending=True).values[:, :p], x.abs().sort(descending=True).values)


def test_every_coordinate_goes_to_one_bucket_with_a_sign():
    p = 300
    z = sketch(torch.eye(p), 50, 0)
    assert torch.equal(z.abs().sum(1), torch.ones(p))
    assert torch.equal(z.abs().max(1).values, torch.ones(p))
    assert set(z.unique().tolist()) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize(("short", "long"), [(4096, 8192), (4096, 16_384), (8192, 16_384)])
def test_shorter_sketch_is_the_folded_longer_one(short, long):
    x = vectors(2, 70_000)
    folded = sketch(x, long, 5).reshape(2, -1, short).sum(1)
    torch.testing.assert_close(folded, sketch(x, short, 5), rtol=1e-10, atol=1e-10)


def test_chunks_are_of_4096_for_its_doublings_and_else_of_the_whole_length():
    assert [chunk_length(v) for v in (4096, 8192, 65_536, 2**20)] == [4096] * 4
    assert [chunk_length(v) for v in (1, 100, 2048, 12_288, 5000)] == [1, 100, 2048, 12_288, 5000]


@given(st.sampled_from(LENGTHS), st.lists(st.integers(1, P - 1), max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_sketch_does_not_depend_on_the_pieces_nor_on_their_order(v, cuts, random):
    x = vectors(2)
    edges = sorted({0, P, *cuts})
    pieces = list(pairwise(edges))
    random.shuffle(pieces)
    sketcher = Sketcher([v], 11, P)
    sketcher.start(2, x.dtype, x.device)
    for start, stop in pieces:
        sketcher.add(start, x[:, start:stop])
    torch.testing.assert_close(sketcher.result(v), sketch(x, v, 11), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("v", LENGTHS)
def test_sketch_does_not_depend_on_the_batch(v):
    x = vectors(20, dtype=torch.float32)  # short chunks of few vectors are placed number by number
    together = sketch(x, v, 2)
    for b in range(20):
        assert torch.equal(sketch(x[b : b + 1], v, 2)[0], together[b])


def test_lengths_asked_for_together_equal_lengths_asked_for_alone():
    x = vectors(3)
    sketcher = Sketcher(LENGTHS, 9, P)
    sketcher.start(3, x.dtype, x.device)
    sketcher.add(0, x)
    for v in LENGTHS:
        torch.testing.assert_close(sketcher.result(v), sketch(x, v, 9), rtol=1e-10, atol=1e-10)


def test_starting_again_forgets_what_was_added():
    x = vectors(2)
    sketcher = Sketcher([64], 0, P)
    for size in (2, 1):
        sketcher.start(size, x.dtype, x.device)
        sketcher.add(0, x[:size])
    assert torch.equal(sketcher.result(64), sketch(x[:1], 64, 0))


@pytest.mark.parametrize("v", [64, 4096, 8192])
def test_different_seeds_give_different_sketches(v):
    x = vectors(1)
    sketches = [sketch(x, v, seed) for seed in (0, 1, 2, 42)]
    for i, left in enumerate(sketches):
        assert torch.equal(left, sketch(x, v, (0, 1, 2, 42)[i]))
        for right in sketches[:i]:
            assert abs(float(torch.cosine_similarity(left, right))) < 5 / math.sqrt(v)


def test_sketch_is_the_same_in_every_release():
    """Cached rows outlive a release: whoever changes these numbers must raise ENGINE_VERSION."""
    x = torch.arange(1.0, 12.0)[None]
    assert sketch(x, 4, 42).tolist() == [[2.0, 9.0, -16.0, 9.0]]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.sampled_from([1, 3]))
def test_all_chunks_at_once_give_the_sketch_that_one_after_the_other_gives(data, rows):
    """What a GPU does, on this machine: pieces of any length and place, chunks in and between whole runs."""
    lengths = data.draw(st.lists(st.sampled_from([*LENGTHS, 8 * CHUNK]), min_size=1, unique=True))
    total = data.draw(st.integers(1, 60_000))
    ends = sorted(data.draw(st.sets(st.integers(1, total), max_size=4)) | {total})
    most = data.draw(st.sampled_from([rotation.AT_ONCE, rows * 3 * CHUNK]))
    x = vectors(rows, total)

    def sketches():
        sketcher = Sketcher(lengths, 5, total)
        sketcher.start(rows, x.dtype, x.device)
        for first, last in pairwise([0, *ends]):
            sketcher.add(first, x[:, first:last])
        return [sketcher.result(v).clone() for v in lengths]

    expected = sketches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rotation, "_is_call_dear", lambda device: True)
        patch.setattr(rotation, "AT_ONCE", most)
        found, again = sketches(), sketches()
    for mine, theirs, repeated in zip(found, expected, again, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
        assert torch.equal(mine, repeated)


@pytest.mark.parametrize("length", [100, CHUNK, 8 * CHUNK])
def test_all_chunks_at_once_take_as_many_calls_for_long_pieces_as_for_short_ones(length, monkeypatch):
    monkeypatch.setattr(rotation, "_is_call_dear", lambda device: True)

    def calls(width):
        x, sketcher = vectors(2, width), Sketcher([length], 5, width)
        sketcher.start(2, x.dtype, x.device)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            sketcher.add(0, x)
        return sum(event.count for event in profile.key_averages())

    assert calls(64 * CHUNK) == calls(16 * CHUNK) < 100


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sketches_on_a_gpu_are_those_of_the_cpu_and_equal_when_repeated():
    x, lengths = vectors(2, 300_000, dtype=torch.float32), [1000, CHUNK, 8 * CHUNK]
    for length in lengths:
        mine, again = (sketch(x.cuda(), length, 3) for _ in range(2))
        torch.testing.assert_close(mine.cpu(), sketch(x, length, 3), rtol=1e-4, atol=1e-4)
        assert torch.equal(mine, again)
