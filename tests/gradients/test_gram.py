"""Gram matrices of whole mean gradients, added up stretch by stretch, against plain autograd."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from attrbench.contracts.computation import Engine
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import Unavailable
from attrbench.gradients import gram_pass as gram
from attrbench.gradients.gram_pass import GramPass, GramSums, Side, inner_products
from attrbench.gradients.samples import NoisySamples, Split
from tests.methods.in_memory import LOSS, Small, batch_gradients, everything, seeded, small_items

SHAPE, COUNT, QUERIES, STEPS = (2, 3, 3), 6, 4, 3
SIZES = [54, 3, 6, 2]  # two convolutions: weight, bias, weight, bias
ONE_STRETCH = 10**6
OF_WEIGHTS = 4 * (COUNT + QUERIES) * 54
FEWER_STEPS = GradientSource(grid=TimestepGrid(kind="uniform", steps=2), noise="per-timestep")


def network():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 1))


@pytest.fixture(scope="module")
def denoiser():
    return Small(seeded(network), SHAPE)


def splits():
    return Split("train", small_items(COUNT, SHAPE)), Split("query", small_items(QUERIES, SHAPE, seed=1))


def sides(asked=LOSS):
    train, query = splits()
    return Side(LOSS, train, COUNT), Side(asked, query, QUERIES)


def means(denoiser, source, split, normalize=False):
    """[items, p] float64."""
    rows = batch_gradients(denoiser, everything(NoisySamples(source, denoiser, split))).unflatten(
        0, (source.grid.steps, -1)
    )
    if normalize:
        rows = rows / rows.norm(dim=2, keepdim=True)
    return rows.mean(0).numpy()


def work_of(denoiser, *asked, normalize=False, room=ONE_STRETCH, batch_size=None):
    train = sides()[0]
    queries = [sides(source)[1] for source in asked or (LOSS,)]
    return GramPass(denoiser, train, queries, normalize, Engine(batch_size=batch_size), room)


def added_up(work, known=False, keep=lambda sums: None):
    sums = work.start(known)
    calls = []
    expected = work.steps(sums)
    work.compute(sums, keep, lambda: calls.append(1))
    assert len(calls) == expected
    return sums


@pytest.mark.parametrize("batch_size", [None, 1, 4])
@pytest.mark.parametrize("room", [ONE_STRETCH, OF_WEIGHTS])
@pytest.mark.parametrize("normalize", [False, True])
def test_sums_are_the_products_of_mean_gradients_however_they_are_cut(denoiser, normalize, room, batch_size):
    work = work_of(denoiser, normalize=normalize, room=room, batch_size=batch_size)
    assert len(work.stretches()) == (1 if room == ONE_STRETCH else 2)
    train, query = (means(denoiser, LOSS, split, normalize) for split in splits())
    own, asked = added_up(work).sides
    np.testing.assert_allclose(own.products, train @ train.T, rtol=1e-10)
    np.testing.assert_allclose(asked.products, query @ train.T, rtol=1e-8, atol=1e-12)
    assert np.array_equal(own.products, own.products.T)
    assert (own.seconds > 0).all() and (asked.seconds > 0).all()


def test_each_set_of_queries_has_its_own_source(denoiser):
    train, query = splits()
    base = means(denoiser, LOSS, train)
    sums = added_up(work_of(denoiser, LOSS, FEWER_STEPS, room=3 * OF_WEIGHTS))
    for source, side in zip((LOSS, FEWER_STEPS), sums.sides[1:], strict=True):
        np.testing.assert_allclose(side.products, means(denoiser, source, query) @ base.T, rtol=1e-8, atol=1e-12)


def test_a_known_matrix_is_not_added_up_again(denoiser):
    own, asked = added_up(work_of(denoiser), known=True).sides
    assert own.products is None
    np.testing.assert_array_equal(asked.products, added_up(work_of(denoiser)).sides[1].products)


@pytest.mark.parametrize("normalize", [False, True])
def test_work_that_was_cut_off_goes_on_behind_the_last_sweep_that_was_kept(denoiser, normalize):
    expected = added_up(work_of(denoiser, normalize=normalize, room=OF_WEIGHTS))
    kept = []

    def cut_off(sums):
        kept.append({name: value.copy() for name, value in sums.arrays().items()})
        if sums.through:
            raise KeyboardInterrupt

    work = work_of(denoiser, normalize=normalize, room=OF_WEIGHTS)
    with pytest.raises(KeyboardInterrupt):
        work.compute(work.start(False), cut_off, lambda: None)
    sums = GramSums.of(kept[-1])
    assert sums.through == 1
    calls = []
    work.compute(sums, lambda sums: None, lambda: calls.append(1))
    assert len(calls) == 2  # one sweep over the shard of either side: the weights are not gone through again
    for mine, other in zip(sums.sides, expected.sides, strict=True):
        np.testing.assert_array_equal(mine.products, other.products)
    assert [GramSums.of(arrays).stage for arrays in kept] == sorted({GramSums.of(arrays).stage for arrays in kept})


@pytest.mark.parametrize("normalize", [False, True])
def test_and_may_have_more_memory_then(denoiser, normalize):
    expected = added_up(work_of(denoiser, normalize=normalize))
    kept = []

    def keep(sums):
        kept.append({name: value.copy() for name, value in sums.arrays().items()})

    added_up(work_of(denoiser, normalize=normalize, room=OF_WEIGHTS), keep=keep)
    sums = GramSums.of(kept[-1])
    assert 0 < sums.through < len(SIZES)
    work_of(denoiser, normalize=normalize).compute(sums, keep, lambda: None)
    for mine, other in zip(sums.sides, expected.sides, strict=True):
        np.testing.assert_allclose(mine.products, other.products, rtol=1e-10)
    assert sums.through == len(SIZES)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("room", [ONE_STRETCH, OF_WEIGHTS])
def test_an_item_with_a_gradient_that_is_not_finite_has_zeros_and_touches_no_other(denoiser, normalize, room):
    class Broken(Small):
        """NaN for one training item and one query at timestep 333, known by their first pixel."""

        def predict(self, noisy, t, conditioning):
            bad = torch.isin(noisy[:, 0, 0, 0], self.broken)
            return self.module(noisy) * torch.where(bad, torch.nan, 1.0)[:, None, None, None]

    model = Broken(seeded(network), SHAPE)
    samples = [NoisySamples(LOSS, model, split) for split in splits()]
    places = [STEPS * 0 + COUNT * 1 + 2, QUERIES * 1 + 3]  # timestep by timestep: item 2, query 3
    model.broken = torch.stack([everything(p).noisy[b, 0, 0, 0] for p, b in zip(samples, places, strict=True)])
    own, asked = added_up(work_of(model, normalize=normalize, room=room)).sides
    assert own.lost.tolist() == [[2, 1]] and asked.lost.tolist() == [[3, 1]]
    train, query = (means(denoiser, LOSS, split, normalize) for split in splits())
    train[2] = query[3] = 0
    np.testing.assert_allclose(own.products, train @ train.T, rtol=1e-10)
    np.testing.assert_allclose(asked.products, query @ train.T, rtol=1e-8, atol=1e-12)


def test_no_stretch_holds_more_than_there_is_room_for(denoiser):
    for room in (OF_WEIGHTS, OF_WEIGHTS * 60 / 54, OF_WEIGHTS * 63 / 54, ONE_STRETCH):
        cut = work_of(denoiser, room=room).stretches()
        sizes = iter(SIZES)
        held = [sum(next(sizes) for _ in stretch) for stretch in cut]
        assert sum(held) == sum(SIZES) and max(held) * 4 * (COUNT + QUERIES) <= room
    assert [len(stretch) for stretch in work_of(denoiser, room=OF_WEIGHTS * 60 / 54).stretches()] == [2, 2]


def test_a_parameter_without_room_is_named_with_what_to_do(denoiser):
    with pytest.raises(Unavailable, match=r"10 items to 0\.weight alone need .* GB .*use a sketch \(v=\.\.\.\)"):
        work_of(denoiser, room=OF_WEIGHTS - 1).stretches()


def test_products_are_of_double_precision_and_exactly_symmetric():
    rows = torch.randn(40, 3 * gram.COLUMNS + 5, generator=torch.Generator().manual_seed(0))
    other = copy.deepcopy(rows[:7])
    expected = rows.double() @ rows.double().T
    found = inner_products(rows, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-9)
    assert np.array_equal(found, found.T) and np.linalg.eigvalsh(found).min() > 0
    np.testing.assert_allclose(inner_products(other, rows), expected[:7], rtol=1e-12, atol=1e-9)
