"""A model's weights from earlier in training, or drawn anew; and the trajectories of its sampler."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from attrbench.contracts.denoiser import untrained
from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.errors import Unavailable, UsageError
from attrbench.models.families.ddpm import DDPMDenoiser
from tests.methods.in_memory import Small, seeded

NAMES = ("step-500", "step-1000", "step-2000")  # by step, not by letter
RATES = {"step-500": 1e-3, "step-1000": 2e-3, "final": 5e-4}


class Listed(Small):
    """With checkpoints whose weights are never asked for."""

    names = NAMES

    def checkpoints(self):
        return self.names


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """The tiny DDPM with three checkpoints, each with the first weight set to its step."""
    folder = tmp_path_factory.mktemp("checkpointed") / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "checkpoints").mkdir()
    weights = DDPMDenoiser(folder, torch.device("cpu")).module.state_dict()
    for name in NAMES:
        changed = {key: value.clone() for key, value in weights.items()}
        next(iter(changed.values())).fill_(int(name.partition("-")[2]))
        save_file(changed, folder / "checkpoints" / f"{name}.safetensors")
    (folder / "checkpoints" / "learning-rates.json").write_text(json.dumps(RATES))
    return folder


@pytest.fixture(scope="module")
def ddpm(folder):
    return DDPMDenoiser(folder, torch.device("cpu"), sampling_steps=5)


def first_weight(denoiser):
    return next(denoiser.module.parameters()).detach().flatten()[0].item()


def weights_of(denoiser):
    return {name: value.clone() for name, value in denoiser.module.state_dict().items()}


def assert_equal_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


# --- names


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("1/4", "step-500"),
        ("2/4", "step-1000"),
        ("3/4", "step-2000"),
        ("4/4", "final"),
        ("1/2", "step-1000"),
        ("2/2", "final"),
        ("1/1", "final"),
        ("1/3", "step-1000"),  # ceil(4 / 3)
        ("final", "final"),
        ("untrained", "untrained"),
        ("step-500", "step-500"),
    ],
)
def test_shares_of_the_training_name_checkpoints(asked, name):
    assert Listed(seeded(lambda: nn.Linear(2, 2)), (1, 1, 2)).resolve(asked) == name


@given(st.integers(0, 20), st.data())
@settings(max_examples=50, deadline=None)
def test_shares_are_evenly_spaced_and_end_with_the_final_weights(earlier, data):
    parts = data.draw(st.integers(1, earlier + 1))
    model = Listed.__new__(Listed)
    model.names = tuple(str(k) for k in range(1, earlier + 1))
    found = [model.resolve(f"{k}/{parts}") for k in range(1, parts + 1)]
    assert found[-1] == "final"
    places = [earlier + 1 if name == "final" else int(name) for name in found]
    gaps = np.diff([0, *places])
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_more_checkpoints_than_there_are_are_unavailable():
    model = Listed(seeded(lambda: nn.Linear(2, 2)), (1, 1, 2))
    with pytest.raises(Unavailable, match=r"5 checkpoints.* 4"):
        model.resolve("1/5")
    with pytest.raises(Unavailable, match=r"2 checkpoints.* 1,"):
        Small(model.module, (1, 1, 2)).at("1/2")


def test_unknown_checkpoint_is_an_error_that_names_the_nearest(ddpm):
    with pytest.raises(UsageError, match="step-1000"):
        ddpm.at("step-1001")


# --- weights


def test_checkpoints_of_a_ddpm_are_listed_by_step(ddpm, tiny_denoiser):
    assert ddpm.checkpoints() == NAMES
    assert tiny_denoiser.checkpoints() == ()


def test_weights_of_a_checkpoint_are_those_of_its_file_and_the_model_keeps_its_own(ddpm, tiny_denoiser):
    before = weights_of(ddpm)
    assert [first_weight(ddpm.at(name)) for name in NAMES] == [500, 1000, 2000]
    other = ddpm.at("2/4")
    assert first_weight(other) == 1000
    assert not any(module.training for module in other.module.modules())
    assert_equal_weights(weights_of(ddpm), before)
    assert_equal_weights(before, weights_of(tiny_denoiser))
    x, t = torch.ones(1, 1, 8, 8), torch.tensor([500])
    with torch.no_grad():
        assert not torch.equal(other.predict(x, t, {}), ddpm.predict(x, t, {}))
        torch.testing.assert_close(ddpm.predict(x, t, {}), tiny_denoiser.predict(x, t, {}))


def test_weights_of_another_seed_are_a_file_of_their_own_and_no_checkpoint(ddpm, folder, tmp_path):
    with pytest.raises(Unavailable, match=r"another seed: keep them as checkpoints/other-seed.safetensors"):
        ddpm.at("other-seed")
    copied = tmp_path / "model"
    shutil.copytree(folder, copied)
    shutil.copy(copied / "checkpoints" / f"{NAMES[1]}.safetensors", copied / "checkpoints" / "other-seed.safetensors")
    twice = DDPMDenoiser(copied, torch.device("cpu"), sampling_steps=5)
    assert twice.checkpoints() == NAMES and twice.resolve("4/4") == "final"
    assert first_weight(twice.at("other-seed")) == 1000 and first_weight(twice) != 1000
    before = twice.fingerprint_at("other-seed")
    assert before not in {twice.fingerprint, *(twice.fingerprint_at(name) for name in NAMES)}
    shutil.copy(copied / "checkpoints" / f"{NAMES[0]}.safetensors", copied / "checkpoints" / "other-seed.safetensors")
    again = DDPMDenoiser(copied, torch.device("cpu"), sampling_steps=5)
    assert again.fingerprint_at("other-seed") != before and again.fingerprint == twice.fingerprint


def test_final_weights_are_the_model_itself(ddpm):
    assert ddpm.at("final") is ddpm
    assert ddpm.at("4/4") is ddpm


def test_a_model_at_a_checkpoint_is_the_same_model_in_all_else(ddpm):
    other = ddpm.at("step-500")
    grid = TimestepGrid(steps=5)
    assert (other.timesteps(grid), other.latent_shape) == (ddpm.timesteps(grid), ddpm.latent_shape)
    assert list(other.attributed_parameters("all")) == list(ddpm.attributed_parameters("all"))
    mine = other.attributed_parameters("all").values()
    assert all(parameter is own for parameter, own in zip(mine, other.module.parameters(), strict=True))


def test_every_set_of_weights_has_a_fingerprint_of_its_own(ddpm, folder, tmp_path):
    names = ("final", "untrained", *NAMES)
    prints = {ddpm.at(name).fingerprint for name in names}
    assert len(prints) == len(names)
    assert ddpm.at("2/4").fingerprint == ddpm.at("step-1000").fingerprint
    shutil.copytree(folder, tmp_path / "model")
    shutil.copy(folder / "checkpoints/step-500.safetensors", tmp_path / "model/checkpoints/step-1000.safetensors")
    changed = DDPMDenoiser(tmp_path / "model", torch.device("cpu"))
    assert changed.at("step-500").fingerprint == ddpm.at("step-500").fingerprint
    assert changed.at("step-1000").fingerprint != ddpm.at("step-1000").fingerprint


def test_learning_rates_are_those_of_the_file(ddpm, tiny_denoiser):
    assert [ddpm.learning_rate(name) for name in RATES] == list(RATES.values())
    with pytest.raises(UsageError, match="step-2000"):
        ddpm.learning_rate("step-2000")
    with pytest.raises(UsageError, match="final"):
        tiny_denoiser.learning_rate("final")


def test_shipped_tasks_have_checkpoints_with_learning_rates():
    from attrbench_tasks.shipped_weights import WEIGHTS

    for folder in ("digits-mini", "ddpm-mnist-mini"):
        model = DDPMDenoiser(WEIGHTS / folder, torch.device("cpu"))
        assert len(model.checkpoints()) == 3
        rates = [model.learning_rate(model.resolve(f"{k}/4")) for k in range(1, 5)]
        assert min(rates) > 0
        last = model.at("3/4")
        distance, total = (
            sum(float((value - other[name]).norm() ** 2) for name, value in weights_of(model).items())
            for other in (weights_of(last), weights_of(model.at("1/4")))
        )
        assert 0 < distance < total  # later weights are nearer to the final ones


# --- untrained


def test_untrained_weights_are_drawn_the_same_every_time_and_leave_model_and_generator_alone(ddpm):
    before, state = weights_of(ddpm), torch.get_rng_state()
    first = ddpm.at("untrained")
    torch.manual_seed(99)
    again = ddpm.at("untrained")
    torch.set_rng_state(state)
    assert_equal_weights(weights_of(first), weights_of(again))
    ddpm.at("untrained")
    assert torch.equal(torch.get_rng_state(), state)
    assert_equal_weights(weights_of(ddpm), before)


def test_untrained_weights_do_not_depend_on_the_trained_ones(ddpm):
    assert_equal_weights(weights_of(ddpm.at("untrained")), weights_of(ddpm.at("step-2000").at("untrained")))


def test_no_trained_weight_is_left_in_an_untrained_model(ddpm):
    trained = copy.deepcopy(ddpm.module)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.fill_(7.0)
    for name, parameter in untrained(trained).named_parameters():
        assert parameter.abs().max() < 2, name
        if parameter.dim() > 1:
            assert parameter.std() > 0, name


def test_another_seed_draws_other_weights(ddpm):
    one, other = (untrained(ddpm.module, seed) for seed in (0, 1))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


class Awkward(nn.Module):
    """Parameters that no layer initializes by itself."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.full((5, 3), 7.0))
        self.weight = nn.Parameter(torch.full((3,), 7.0))
        self.bias = nn.Parameter(torch.full((3,), 7.0))
        self.norm = nn.GroupNorm(1, 3)
        self.register_buffer("frequencies", torch.arange(4.0))
        nn.init.constant_(self.norm.weight, 7.0)


def test_parameters_that_no_layer_initializes_are_drawn_too_and_buffers_stay():
    module = Awkward()
    fresh = untrained(module)
    assert 0 < fresh.table.std() < 0.1
    assert torch.equal(fresh.weight, torch.ones(3))
    assert torch.equal(fresh.bias, torch.zeros(3))
    assert torch.equal(fresh.norm.weight, torch.ones(3))
    assert torch.equal(fresh.frequencies, module.frequencies)
    assert (module.table == 7).all()


# --- trajectories


def test_trajectory_has_an_estimate_for_each_step_and_ends_with_the_picture(tiny_denoiser):
    seeds = [3, 1, 4]
    found = tiny_denoiser.trajectory([""] * 3, seeds)
    assert found.shape == (3, 5, 1, 8, 8)
    images = tiny_denoiser.generate([""] * 3, seeds)
    encoded = tiny_denoiser.encode(images, [""] * 3, "model").latents
    assert (found[:, -1] - encoded).abs().max() <= 1 / 127.5
    assert (found[:, 0] - encoded).abs().max() > 0.1
    assert found.abs().max() <= 1
    assert not found.requires_grad


def test_trajectory_of_a_picture_does_not_depend_on_the_others(tiny_denoiser):
    together = tiny_denoiser.trajectory([""] * 3, [3, 1, 4])
    torch.testing.assert_close(tiny_denoiser.trajectory([""], [1])[0], together[1], rtol=0, atol=1e-4)


def test_first_estimate_follows_from_the_noise_by_the_forward_process(tiny_denoiser):
    """x_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar), clamped."""
    from attrbench.models.noise import gaussian

    x = gaussian((1, 8, 8), "generate", 3)[None]
    t = tiny_denoiser.sampler_timesteps()[0]
    abar = tiny_denoiser.scheduler.alphas_cumprod[t]
    with torch.no_grad():
        predicted = tiny_denoiser.predict(x, torch.tensor([t]), {})
    expected = ((x - (1 - abar).sqrt() * predicted) / abar.sqrt()).clamp(-1, 1)
    torch.testing.assert_close(tiny_denoiser.trajectory([""], [3])[:, 0], expected)


def test_timesteps_of_the_sampler_descend_and_are_as_many_as_its_steps(tiny_denoiser):
    found = tiny_denoiser.sampler_timesteps()
    assert len(found) == 5
    assert list(found) == sorted(set(found), reverse=True)
    assert tiny_denoiser.timesteps(TimestepGrid(kind="sampler", steps=5)) == found


def test_other_models_have_no_trajectory():
    model = Small(seeded(lambda: nn.Linear(2, 2)), (1, 1, 2))
    with pytest.raises(Unavailable, match="Small"):
        model.trajectory([""], [0])
