"""Grids of timesteps and the noise of their repeats are functions of their options."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.errors import Unavailable, UsageError
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.models.noise import feature_noise
from attrbench.models.timesteps import grid_draws, grid_timesteps, sampler_steps
from tests.gradients.small_pairs import (
    SHAPE,
    denoiser,  # noqa: F401
    network,
    source_of,
)
from tests.methods.in_memory import Small, everything, seeded, small_items, small_samples

# --- grids


@given(st.integers(1, 60), st.integers(0, 50), st.integers(1, 1000))
@settings(max_examples=50, deadline=None)
def test_random_grid_is_a_function_of_its_seed_within_the_training(steps, seed, training_steps):
    grid = TimestepGrid(kind="random", steps=steps, seed=seed)
    found = grid_timesteps(grid, training_steps)
    assert found == grid_timesteps(grid, training_steps)
    assert len(found) == steps
    assert all(0 <= t < training_steps for t in found)


def test_random_grid_draws_with_replacement_and_uniformly():
    found = grid_timesteps(TimestepGrid(kind="random", steps=1000), 10)
    counts = np.bincount(found, minlength=10)
    assert (np.abs(counts - 100) < 4 * np.sqrt(90)).all()
    assert found != grid_timesteps(TimestepGrid(kind="random", steps=1000, seed=1), 10)


def test_single_grid_is_one_timestep_again_and_again():
    grid = TimestepGrid(kind="single", steps=4, at=321)
    assert grid_timesteps(grid) == (321,) * 4
    with pytest.raises(UsageError, match="321"):
        grid_timesteps(grid, 300)


def test_sampler_grid_takes_the_samplers_own_timesteps_in_their_order():
    visited = (980, 700, 500, 300, 100, 0)
    for steps, expected in (
        (6, visited),
        (None, visited),
        (3, (980, 500, 100)),
        (1, (980,)),
        (4, (980, 700, 300, 100)),
    ):
        assert grid_timesteps(TimestepGrid(kind="sampler", steps=steps), 1000, lambda: visited) == expected
    with pytest.raises(UsageError, match="takes 6"):
        grid_timesteps(TimestepGrid(kind="sampler", steps=7), 1000, lambda: visited)
    with pytest.raises(Unavailable, match="no sampling trajectories"):
        grid_timesteps(TimestepGrid(kind="sampler", steps=3))


@pytest.mark.parametrize("kind", ["cubic", "uniform", "random", "single"])
def test_only_the_samplers_grid_has_a_number_of_timesteps_of_its_own(kind):
    with pytest.raises(ValidationError, match=f"the grid {kind} needs a number of timesteps"):
        TimestepGrid(kind=kind, steps=None)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_steps_of_a_sampler_are_distinct_and_in_order(data):
    visited = data.draw(st.integers(1, 1000))
    found = sampler_steps(data.draw(st.integers(1, visited)), visited)
    assert list(found) == sorted(set(found))
    assert found[0] == 0
    assert found[-1] < visited


def test_only_random_grids_count_their_repeats():
    times = (5, 7, 5, 5, 7, 1)
    for kind in ("random", "single"):
        assert grid_draws(TimestepGrid(kind=kind), times) == (0, 0, 1, 2, 1, 0)
    for kind in ("cubic", "uniform", "sampler"):
        assert grid_draws(TimestepGrid(kind=kind), times) == (0,) * 6


# --- noise


@pytest.mark.parametrize("policy", ["shared", "per-timestep", "per-item"])
def test_the_first_draw_has_the_noise_of_a_grid_without_draws_and_later_ones_have_their_own(policy):
    source = source_of(noise=policy)
    plain = feature_noise(source, "key", 500, SHAPE)
    draws = [feature_noise(source, "key", 500, SHAPE, draw) for draw in range(3)]
    assert torch.equal(draws[0], plain)
    assert torch.equal(draws[1], draws[2]) == torch.equal(draws[1], plain) == (policy == "shared")


@pytest.mark.parametrize(
    ("policy", "numbers"),
    [("shared", [0.72435, 0.22390]), ("per-timestep", [-0.25174, 1.65113]), ("per-item", [-0.71686, 1.56022])],
)
def test_noise_of_the_first_draw_is_that_from_before_there_were_draws(policy, numbers):
    noise = feature_noise(source_of(noise=policy), "train/3", 500, (2,), 0)
    assert noise.tolist() == pytest.approx(numbers, abs=1e-5)


@pytest.mark.parametrize("kind", ["random", "single"])
@pytest.mark.parametrize("policy", ["shared", "per-timestep", "per-item"])
def test_repeats_of_a_timestep_are_noised_anew(denoiser, kind, policy):
    steps = 40
    source = source_of(kind, policy, steps=steps, at=500)

    class Short(Small):
        def timesteps(self, grid):
            return tuple(t % 10 for t in super().timesteps(grid))

    samples = small_samples(Short(seeded(network), SHAPE), 2, source)
    assert len(set(samples.timesteps)) < steps
    targets = everything(samples).target.reshape(steps, 2, -1)  # timestep by timestep
    of_first = {targets[step, 0].numpy().tobytes() for step in range(steps)}
    assert len(of_first) == (1 if policy == "shared" else steps)
    assert torch.equal(targets[:, 0], targets[:, 1]) == (policy != "per-item")


def test_a_duplicate_of_the_cubic_grid_is_the_same_sample_twice(denoiser):
    source = source_of("cubic", steps=30)
    samples = small_samples(denoiser, 1, source)
    assert samples.timesteps[0] == samples.timesteps[1]
    batch = everything(samples)
    assert torch.equal(batch.noisy[0], batch.noisy[1])


def test_weights_of_the_variational_bound_go_with_the_samples(tiny_denoiser):
    split = Split("train", small_items(2, (1, 8, 8)))
    for output in ("weighted-loss", "loss"):
        samples = NoisySamples(source_of(output=output), tiny_denoiser, split)
        weights = everything(samples).weight
        if output == "loss":
            assert weights is None
        else:
            torch.testing.assert_close(weights, tiny_denoiser.loss_weights(torch.tensor([0, 0, 333, 333, 666, 666])))
