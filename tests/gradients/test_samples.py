"""Pairs of item and timestep are each drawn once and alike in any batch, along trajectories too."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

from collections import Counter

import numpy as np
import pytest
import torch

from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import Unavailable
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.models.noise import feature_noise
from tests.gradients.small_pairs import (
    COUNT,
    SHAPE,
    STEPS,
    assert_same_batch,
    denoiser,  # noqa: F401
    network,
)
from tests.methods.in_memory import LOSS, Small, everything, seeded, small_items, small_samples

TIMES = (0, 333, 666)


# --- samples


@pytest.mark.parametrize(("size", "block"), [(1, 64), (4, 2), (5, 4), (1000, 64)])
def test_batches_hold_every_sample_once_and_each_is_the_same_in_any_batch(denoiser, size, block):
    samples = small_samples(denoiser)
    seen = {}
    for items, steps, batch in samples.batches(size, block):
        assert len(items) == len(steps) == len(batch.t) <= size
        for b, key in enumerate(zip(items.tolist(), steps.tolist(), strict=True)):
            assert key not in seen
            seen[key] = batch.sample(b)
    assert sorted(seen) == [(item, step) for item in range(COUNT) for step in range(STEPS)]
    encoded = denoiser.encode(samples.split.items.images, (), "model").latents
    for (item, step), one in seen.items():
        noise = feature_noise(LOSS, samples.split.items.keys[item], TIMES[step], SHAPE)[None].double()
        t = torch.tensor([TIMES[step]])
        torch.testing.assert_close(one.noisy, denoiser.noisy(encoded[item : item + 1], noise, t))
        assert torch.equal(one.target, noise)
        assert torch.equal(one.t, t)


def keys_of(batch, samples):
    """(item, step) of each sample of a batch, by its noisy latents."""
    every = everything(samples)
    keys = {row.numpy().tobytes(): index for index, row in enumerate(every.noisy)}
    assert len(keys) == len(every.t)
    found = [keys[row.numpy().tobytes()] for row in batch.noisy]
    for b, index in enumerate(found):
        assert_same_batch(batch.sample(b), every.sample(index))
    return found


def test_drawn_samples_are_different_ones_of_the_samples_there_are(denoiser):
    samples = small_samples(denoiser)
    found = keys_of(samples.drawn(7, torch.Generator().manual_seed(0)), samples)
    assert len(set(found)) == 7
    again = keys_of(samples.drawn(7, torch.Generator().manual_seed(0)), samples)
    other = keys_of(samples.drawn(7, torch.Generator().manual_seed(1)), samples)
    assert found == again != other


@pytest.mark.parametrize("size", [COUNT * STEPS, 1000])
def test_as_many_as_there_are_samples_are_all_of_them(denoiser, size):
    samples = small_samples(denoiser)
    found = keys_of(samples.drawn(size, torch.Generator().manual_seed(0)), samples)
    assert sorted(found) == list(range(COUNT * STEPS))


def test_every_sample_is_drawn_equally_often(denoiser):
    samples = small_samples(denoiser)
    draws = torch.Generator().manual_seed(0)
    counts = Counter(key for _ in range(300) for key in keys_of(samples.drawn(6, draws), samples))
    expected = 300 * 6 / (COUNT * STEPS)
    assert set(counts) == set(range(COUNT * STEPS))
    assert all(abs(count - expected) < 4 * np.sqrt(expected) for count in counts.values())


def test_only_the_first_items_take_part_where_a_count_is_given(denoiser):
    split = Split("train", small_items(COUNT, SHAPE))
    few, every = NoisySamples(LOSS, denoiser, split, 2), NoisySamples(LOSS, denoiser, split)
    items = [item for items, _, _ in few.batches(100) for item in items.tolist()]
    assert sorted(items) == sorted([0, 1] * STEPS)
    drawn = few.drawn(100, torch.Generator().manual_seed(0))
    assert {index % COUNT for index in keys_of(drawn, every)} == {0, 1}


def test_samples_of_other_weights_have_their_gradients():
    denoiser = Small(seeded(network), SHAPE)
    untrained = denoiser.at("untrained")
    samples = small_samples(denoiser, source=LOSS.model_copy(update={"checkpoint": "untrained"}))
    assert all(
        torch.equal(parameter, other)
        for parameter, other in zip(samples.parameters.values(), untrained.module.parameters(), strict=True)
    )
    assert not torch.equal(next(iter(samples.parameters.values())), next(denoiser.module.parameters()))
    assert_same_batch(everything(samples), everything(small_samples(denoiser)))


# --- trajectories


VISITED = (900, 600, 300, 0)


class Followed(Small):
    """What the sampler took for the clean picture at a step is the number 10 * seed + step."""

    def trajectory(self, prompts, seeds):
        numbers = 10 * torch.tensor(seeds)[:, None] + torch.arange(len(VISITED))
        return numbers[:, :, None, None, None].expand(-1, -1, *self.latent_shape).double()

    def noisy(self, latents, noise, t):
        return latents


@pytest.fixture(scope="module")
def followed():
    return Followed(seeded(network), SHAPE, VISITED)


def along(denoiser, grid, seeds=(7, 3)):
    source = GradientSource(grid=grid, noise="per-item", latents="trajectory")
    return NoisySamples(source, denoiser, Split("query", small_items(2, SHAPE, seeds=seeds)))


@pytest.mark.parametrize(("steps", "taken"), [(4, [0, 1, 2, 3]), (2, [0, 2])])
def test_each_timestep_has_the_estimate_of_its_own_sampling_step(followed, steps, taken):
    samples = along(followed, TimestepGrid(kind="sampler", steps=steps))
    batch = everything(samples)
    assert batch.t.tolist() == [VISITED[step] for step in taken for _ in range(2)]
    assert batch.noisy[:, 0, 0, 0].tolist() == [10 * seed + step for step in taken for seed in (7, 3)]
    drawn = samples.drawn(3, torch.Generator().manual_seed(0))
    assert len(drawn.t) == 3
    for number, t in zip(drawn.noisy[:, 0, 0, 0].tolist(), drawn.t.tolist(), strict=True):
        assert VISITED[int(number) % 10] == t


@pytest.mark.parametrize(("at", "step"), [(900, 0), (999, 0), (700, 1), (460, 1), (440, 2), (0, 3)])
def test_a_single_timestep_has_the_estimate_of_the_nearest_sampling_step(followed, at, step):
    batch = everything(along(followed, TimestepGrid(kind="single", steps=3, at=at)))
    assert batch.t.tolist() == [at] * 6
    assert batch.noisy[:, 0, 0, 0].tolist() == [10 * seed + step for _ in range(3) for seed in (7, 3)]
    assert len({row.numpy().tobytes() for row in batch.target}) == 6  # each draw with a noise of its own


def test_items_without_seeds_have_no_trajectory(followed):
    with pytest.raises(Unavailable, match="query items have no sampling trajectory"):
        along(followed, TimestepGrid(kind="sampler", steps=4), seeds=None)


def test_models_without_a_sampler_have_no_trajectory(denoiser):
    with pytest.raises(Unavailable, match="no sampling trajectories"):
        along(Small(denoiser.module, SHAPE, VISITED), TimestepGrid(kind="sampler", steps=4)).encode(0, 2)
