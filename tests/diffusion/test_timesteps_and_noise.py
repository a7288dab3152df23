import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.diffusion.noise import feature_noise, gaussian, seed_of
from attrbench.diffusion.timesteps import grid_timesteps
from attrbench.features import GradientSource, TimestepGrid

SHAPE = (2, 3, 3)
KEYS = st.tuples(st.sampled_from(["train", "query"]), st.integers(0, 10**6), st.integers(0, 999))


def test_cubic_grid_is_that_of_the_released_code():
    assert grid_timesteps(TimestepGrid(kind="cubic", steps=5)) == (999, 991, 935, 783, 487)
    assert grid_timesteps(TimestepGrid(kind="cubic", steps=10)) == (999, 998, 991, 972, 935, 874, 783, 656, 487, 270)


def test_uniform_grid_is_that_of_d_trak():
    assert grid_timesteps(TimestepGrid(kind="uniform", steps=10)) == tuple(range(0, 1000, 100))
    assert grid_timesteps(TimestepGrid(kind="uniform", steps=4), 200) == (0, 50, 100, 150)


@given(st.sampled_from(["cubic", "uniform"]), st.integers(1, 50), st.integers(50, 1000))
@settings(max_examples=50, deadline=None)
def test_timesteps_are_among_those_of_the_training(kind, steps, training_steps):
    timesteps = grid_timesteps(TimestepGrid(kind=kind, steps=steps), training_steps)
    assert len(timesteps) == steps
    assert all(0 <= t < training_steps for t in timesteps)
    assert list(timesteps) == sorted(timesteps, reverse=kind == "cubic")


def test_denoiser_uses_the_grid_of_its_own_training(tiny_denoiser):
    assert tiny_denoiser.timesteps(TimestepGrid(steps=5)) == (999, 991, 935, 783, 487)


def noise_of(policy, key, seed=0):
    split, item, timestep = key
    return feature_noise(GradientSource(noise=policy, noise_seed=seed), split, item, timestep, SHAPE)


@pytest.mark.parametrize(
    ("policy", "depends_on"),
    [("shared", ()), ("per-timestep", (2,)), ("per-item", (0, 1, 2))],
)
@given(a=KEYS, b=KEYS)
@settings(max_examples=40, deadline=None)
def test_noise_depends_on_the_keys_of_its_policy_and_on_nothing_else(policy, depends_on, a, b):
    mixed = tuple(b[i] if i in depends_on else a[i] for i in range(3))  # differs from b in what must not matter
    assert torch.equal(noise_of(policy, mixed), noise_of(policy, b))
    same = all(a[i] == b[i] for i in depends_on)
    assert torch.equal(noise_of(policy, a), noise_of(policy, b)) == same


@pytest.mark.parametrize("policy", ["shared", "per-timestep", "per-item"])
def test_noise_changes_with_its_seed(policy):
    key = ("train", 3, 999)
    assert not torch.equal(noise_of(policy, key, 0), noise_of(policy, key, 1))


def test_noise_leaves_the_global_generator_alone_and_does_not_read_it():
    torch.manual_seed(5)
    first, state = gaussian(SHAPE, "noise", 1), torch.get_rng_state()
    torch.manual_seed(6)
    assert torch.equal(gaussian(SHAPE, "noise", 1), first)
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_standard_normal_across_items():
    source = GradientSource(noise="per-item")
    draws = torch.stack([feature_noise(source, "train", item, 0, (4, 4)) for item in range(500)]).double()
    assert abs(float(draws.mean())) < 4 / math.sqrt(draws.numel())
    assert abs(float(draws.var()) - 1) < 4 * math.sqrt(2 / draws.numel())
    correlations = np.corrcoef(draws.flatten(1).numpy())[np.triu_indices(500, 1)]
    assert abs(correlations.mean()) < 0.01


def test_seeds_are_the_same_in_every_process_and_release():
    assert seed_of("noise", 0) == 4105054413590445668
    assert seed_of("a", "b") != seed_of("b", "a")
