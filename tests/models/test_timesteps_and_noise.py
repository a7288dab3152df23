import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import UsageError
from attrbench.models.noise import feature_noise, gaussian, seed_of
from attrbench.models.timesteps import flow_timesteps, grid_timesteps, stable_diffusion_timesteps

SHAPE = (2, 3, 3)
KEYS = st.tuples(st.text("0123456789abcdef", min_size=1, max_size=24), st.integers(0, 999))


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


def test_cubic_grid_of_stable_diffusion_is_that_of_the_released_code():
    grid = TimestepGrid(kind="cubic", steps=10)
    assert stable_diffusion_timesteps(grid) == (998, 992, 973, 936, 875, 784, 657, 488, 271, 0)
    twenty = stable_diffusion_timesteps(TimestepGrid(kind="cubic", steps=20))
    assert twenty[:3] == (999, 998, 997)
    assert twenty[-1] == 0


def pndm_list(training_steps):
    from diffusers import PNDMScheduler

    scheduler = PNDMScheduler(num_train_timesteps=training_steps, skip_prk_steps=True, steps_offset=1)
    scheduler.set_timesteps(training_steps)
    return scheduler.timesteps.tolist()


@given(st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_cubic_grid_of_stable_diffusion_reads_the_list_of_pndm_as_the_released_code(steps):
    """u = linspace(0, 1, T + 1)^3, idx = floor(1000 u)[1:], t = list[idx] - 1."""
    found = stable_diffusion_timesteps(TimestepGrid(kind="cubic", steps=steps))
    entries = pndm_list(1000)
    assert len(entries) == 1001
    assert found == tuple(entries[k**3 * 1000 // steps**3] - 1 for k in range(1, steps + 1))


@pytest.mark.parametrize("kind", ["uniform", "random", "single"])
def test_other_grids_of_stable_diffusion_are_those_of_ddpms(kind):
    grid = TimestepGrid(kind=kind, steps=10, at=7)
    assert stable_diffusion_timesteps(grid) == grid_timesteps(grid)


def flow_schedule(shift=3.0):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=shift).timesteps.tolist()[::-1]


def test_cubic_grid_of_stable_diffusion_3_is_that_of_the_released_code():
    found = flow_timesteps(TimestepGrid(kind="cubic", steps=10), flow_schedule())
    expected = (1, 1.000, 0.997, 0.991, 0.978, 0.955, 0.916, 0.852, 0.741, 0.527)
    assert [round(t / 1000, 3) for t in found] == list(expected)
    assert flow_timesteps(TimestepGrid(steps=5), flow_schedule()) == pytest.approx(
        [1000 * 3 * s / (1 + 2 * s) for s in (1.0, 0.992, 0.936, 0.784, 0.488)]
    )


def test_duplicates_of_cubic_grids_are_kept():
    grid = TimestepGrid(kind="cubic", steps=20)
    ddpm, flow = grid_timesteps(grid), flow_timesteps(grid, flow_schedule())
    assert ddpm[:2] == (999, 999)
    assert flow[:2] == (1000.0, 1000.0)
    assert len(ddpm) == len(flow) == 20


@given(st.sampled_from(["cubic", "uniform", "random", "single"]), st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_flow_timesteps_are_training_timesteps_counted_as_those_of_ddpms(kind, steps):
    grid, schedule = TimestepGrid(kind=kind, steps=steps, at=17, seed=3), flow_schedule()
    assert flow_timesteps(grid, schedule) == tuple(schedule[t] for t in grid_timesteps(grid))


def test_flow_grids_may_follow_the_sampler():
    grid = TimestepGrid(kind="sampler", steps=2)
    assert flow_timesteps(grid, flow_schedule(), lambda: (1000.0, 900.5, 600.25, 300.0)) == (1000.0, 600.25)
    with pytest.raises(UsageError, match="takes 1"):
        flow_timesteps(grid, flow_schedule(), lambda: (1000.0,))


@pytest.mark.parametrize("timesteps", [stable_diffusion_timesteps, grid_timesteps])
@pytest.mark.parametrize("kind", ["cubic", "uniform"])
def test_more_timesteps_than_the_training_had_are_refused(timesteps, kind):
    with pytest.raises(UsageError, match="timesteps=11"):
        timesteps(TimestepGrid(kind=kind, steps=11), 10)


def test_noise_of_whole_timesteps_is_keyed_as_before_and_real_ones_by_their_value():
    source = GradientSource(noise="per-timestep")
    assert torch.equal(feature_noise(source, "key", 999, SHAPE), gaussian(SHAPE, "noise", 0, 999))
    real = [feature_noise(source, "key", t, SHAPE) for t in (999.0, 999.5, 999.5)]
    assert torch.equal(real[1], real[2])
    assert not torch.equal(real[0], real[1])


def test_denoiser_uses_the_grid_of_its_own_training(tiny_denoiser):
    assert tiny_denoiser.timesteps(TimestepGrid(steps=5)) == (999, 991, 935, 783, 487)


def noise_of(policy, key, seed=0):
    item, timestep = key
    return feature_noise(GradientSource(noise=policy, noise_seed=seed), item, timestep, SHAPE)


@pytest.mark.parametrize(
    ("policy", "depends_on"),
    [("shared", ()), ("per-timestep", (1,)), ("per-item", (0, 1))],
)
@given(a=KEYS, b=KEYS)
@settings(max_examples=40, deadline=None)
def test_noise_depends_on_the_keys_of_its_policy_and_on_nothing_else(policy, depends_on, a, b):
    mixed = tuple(b[i] if i in depends_on else a[i] for i in range(2))  # differs from b in what must not matter
    assert torch.equal(noise_of(policy, mixed), noise_of(policy, b))
    same = all(a[i] == b[i] for i in depends_on)
    assert torch.equal(noise_of(policy, a), noise_of(policy, b)) == same


@pytest.mark.parametrize("policy", ["shared", "per-timestep", "per-item"])
def test_noise_changes_with_its_seed(policy):
    key = ("key", 999)
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
    draws = torch.stack([feature_noise(source, f"key {item}", 0, (4, 4)) for item in range(500)]).double()
    assert abs(float(draws.mean())) < 4 / math.sqrt(draws.numel())
    assert abs(float(draws.var()) - 1) < 4 * math.sqrt(2 / draws.numel())
    correlations = np.corrcoef(draws.flatten(1).numpy())[np.triu_indices(500, 1)]
    assert abs(correlations.mean()) < 0.01


def test_seeds_are_the_same_in_every_process_and_release():
    assert seed_of("noise", 0) == 4105054413590445668
    assert seed_of("a", "b") != seed_of("b", "a")
