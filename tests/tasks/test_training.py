import itertools
import math
import signal

import pytest
import torch

from attrbench import interruptions
from attrbench.errors import AttrbenchError, Interrupted
from attrbench.interruptions import obey_interruptions
from attrbench_tasks.minis.open_ddpm import gray_unet
from attrbench_tasks.training import loop
from attrbench_tasks.training.loop import LatentRecipe, Progress, Recipe, fit
from attrbench_tasks.training.train_ddpm import DDPMRecipe, train_ddpm
from attrbench_tasks.training.training_state import TrainingState, has_state

RECIPE = DDPMRecipe(
    unet=gray_unet(8, [8, 8], groups=4),
    steps=6,
    batch_size=4,
    learning_rate=1e-3,
)
CPU = torch.device("cpu")


def images() -> torch.Tensor:
    return torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_training_is_seeded_and_resumes_to_the_same_weights(tmp_path):
    train_ddpm(RECIPE, images(), tmp_path / "whole", device=CPU, report=lambda step, loss: None)

    def stop(step, loss):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ddpm(RECIPE, images(), tmp_path / "cut", device=CPU, report=stop, checkpoint_every=2)
    assert has_state(tmp_path / "cut")
    steps = []
    train_ddpm(
        RECIPE, images(), tmp_path / "cut", device=CPU, report=lambda step, loss: steps.append(step), checkpoint_every=2
    )
    assert steps[0] == 4  # resumed from the checkpoint at 2
    assert not has_state(tmp_path / "cut")
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_after_its_step_with_the_state_kept(tmp_path, monkeypatch, number):
    """The state is that of the step, not that of the last multiple of 500, and the weights end as if nothing was."""
    train_ddpm(RECIPE, images(), tmp_path / "whole", device=CPU, report=lambda step, loss: None)
    obey_interruptions()
    monkeypatch.setattr(interruptions, "_last", -interruptions.PATIENCE)
    average = loop._average

    def signaled(recipe, ema, parameters, step):
        if step == 3:
            signal.raise_signal(number)
        average(recipe, ema, parameters, step)

    monkeypatch.setattr(loop, "_average", signaled)
    with pytest.raises(Interrupted):
        train_ddpm(RECIPE, images(), tmp_path / "cut", device=CPU, report=lambda step, loss: None)
    steps = []
    monkeypatch.setattr(loop, "_average", lambda *rest: (steps.append(rest[-1]), average(*rest)))
    train_ddpm(RECIPE, images(), tmp_path / "cut", device=CPU, report=lambda step, loss: None)
    assert steps == [4, 5, 6]
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_the_state_is_kept_by_the_minute_and_not_more_often_than_saving_it_takes(tmp_path, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])

    def save(self, step):
        saved.append(now[0])
        now[0] += {1: 1.0}.get(len(saved), 10.0)

    def loss(chosen, rng):
        now[0] += 25.0
        return module(x[chosen]).mean()

    monkeypatch.setattr(TrainingState, "save", save)
    module, x = torch.nn.Linear(3, 1), torch.ones(4, 3)
    fit(Recipe(steps=21, batch_size=2, learning_rate=1e-2), module, 4, loss, Progress(tmp_path, lambda *_: None))
    gaps = [after - before for before, after in itertools.pairwise([0.0, *saved])]
    assert gaps == [75.0, 76.0, 210.0, 185.0]  # by the minute; then 20 times the 10 s of the second; then the end


def test_a_damaged_state_is_named_and_training_starts_again(tmp_path, caplog):
    def stop(step, loss):
        if step == 4:
            raise KeyboardInterrupt

    train_ddpm(RECIPE, images(), tmp_path / "whole", device=CPU, report=lambda step, loss: None)
    with pytest.raises(KeyboardInterrupt):
        train_ddpm(RECIPE, images(), tmp_path / "cut", device=CPU, report=stop, checkpoint_every=2)
    (state,) = (tmp_path / "cut").glob("training-state-*.safetensors")
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    steps = []
    train_ddpm(
        RECIPE, images(), tmp_path / "cut", device=CPU, report=lambda step, _: steps.append(step), checkpoint_every=2
    )
    assert steps[0] == 2
    assert caplog.text.count(f"state of a training {state} is damaged") == 1
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_state_of_another_recipe_is_refused(tmp_path):
    def stop(step, loss):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ddpm(RECIPE, images(), tmp_path, device=CPU, report=stop, checkpoint_every=2)
    other = RECIPE.model_copy(update={"seed": 1})
    with pytest.raises(AttrbenchError, match="another recipe"):
        train_ddpm(other, images(), tmp_path, device=CPU, report=lambda step, loss: None)


def reference(recipe, module, x, y):
    """The recipe written out: warm-up times cosine, AdamW, gradients clipped at norm 1, and the moving average."""
    weights = dict(module.named_parameters())
    average = {name: value.detach().clone() for name, value in weights.items()}
    optimizer = torch.optim.AdamW(weights.values(), weight_decay=recipe.weight_decay)
    for step in range(recipe.steps):
        warm = min(1.0, (step + 1) / recipe.warmup)
        optimizer.param_groups[0]["lr"] = (
            recipe.learning_rate * warm * (1 + math.cos(math.pi * step / recipe.steps)) / 2
        )
        chosen, _ = recipe.batch(len(x), step)
        optimizer.zero_grad()
        (module(x[chosen]) - y[chosen]).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        decay = min(recipe.ema_decay, (2 + step) / (11 + step))
        for name, value in weights.items():
            average[name] = decay * average[name] + (1 - decay) * value.detach()
    return average


@pytest.mark.parametrize("kind", [Recipe, LatentRecipe])
def test_the_loop_does_what_the_recipe_says(kind, tmp_path):
    recipe = kind(steps=40, batch_size=4, learning_rate=1e-2, warmup=10, ema_decay=0.7, seed=3)
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(14, 5, generator=rng), 20 * torch.randn(14, 2, generator=rng)
    torch.manual_seed(1)
    first, second = torch.nn.Linear(5, 2), torch.nn.Linear(5, 2)
    second.load_state_dict(first.state_dict())
    expected = reference(recipe, first, x, y)
    averaged = fit(
        recipe,
        second,
        len(x),
        lambda chosen, rng: (second(x[chosen]) - y[chosen]).square().mean(),
        Progress(tmp_path, lambda step, loss: None),
    )
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name], value, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(second.get_parameter(name), value, rtol=1e-3)  # the last weights are others


def test_without_an_average_the_last_weights_are_returned(tmp_path):
    recipe = Recipe(steps=3, batch_size=2, learning_rate=1e-2, warmup=1, ema_decay=None)
    module, x = torch.nn.Linear(3, 1), torch.ones(4, 3)
    weights = fit(recipe, module, 4, lambda chosen, rng: module(x[chosen]).mean(), Progress(tmp_path, lambda *_: None))
    assert all(torch.equal(weights[name], value) for name, value in module.named_parameters())


def test_the_learning_rate_has_a_plateau_and_falls_at_the_end():
    recipe = LatentRecipe(steps=100, batch_size=1, learning_rate=2.0, warmup=4, cooldown=0.25)
    rates = [recipe.learning_rate_at(step) for step in range(100)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0] and set(rates[4:75]) == {2.0}
    assert rates[75:] == sorted(rates[75:], reverse=True) and 0 < rates[-1] < 0.01
    constant = recipe.model_copy(update={"cooldown": 0, "warmup": 0})
    assert {constant.learning_rate_at(step) for step in (0, 99)} == {2.0}
