import copy
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attrbench.contracts.denoiser import Denoiser, Encoded
from attrbench.contracts.samples import Batch
from attrbench.gradients.backends import per_sample_gradients
from attrbench.gradients.model_outputs import MODEL_OUTPUTS

SIZE = 5


class ToyDenoiser(Denoiser):
    def __init__(self, module):
        self.module = module.double().eval()
        self.device = torch.device("cpu")
        self.latent_shape = (4, 6, 6)
        self.training_steps = 10
        self.fingerprint = "toy"

    def encode(self, images, prompts, image_range):
        return Encoded(torch.from_numpy(images.astype(np.float64)).permute(0, 3, 1, 2))

    def attributed_parameters(self, which):
        return dict(self.module.named_parameters())

    def timesteps(self, grid):
        return tuple(range(grid.steps))

    def noisy(self, latents, noise, t):
        return latents + noise

    def predict(self, noisy, t, conditioning):
        return self.module(noisy)

    def target(self, latents, noise, t):
        return noise

    def generate(self, prompts, seeds):
        raise NotImplementedError


class Strided(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False),
            nn.SiLU(),
            nn.Conv2d(8, 6, 3, stride=2, padding=2, dilation=2, groups=2),
            nn.SiLU(),
            nn.Conv2d(6, 4, (1, 3), stride=(2, 1), padding=(0, 1)),
        )

    def forward(self, x):
        return self.layers(x)


class NormSink(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 1)
        self.group = nn.GroupNorm(4, 8)
        self.layer = nn.LayerNorm(8)
        self.layer_2d = nn.LayerNorm((6, 6))
        for norm in (self.group, self.layer, self.layer_2d):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x):
        x = self.layer_2d(F.silu(self.group(self.conv(x))))
        return self.layer(x.flatten(2).transpose(1, 2)).square()


class Linears(nn.Module):
    """A linear layer over [B, C] and one over [B, positions, C]."""

    def __init__(self):
        super().__init__()
        self.flat = nn.Linear(4, 3)
        self.tokens = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return torch.tanh(self.tokens(x.flatten(2).transpose(1, 2))) + self.flat(x.mean((2, 3)))[:, None]


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x):
        for _ in range(2):
            x = torch.tanh(self.norm(self.shared(x)))
        return x


class PartlyUnused(nn.Module):
    """One layer is never called, one is called in vain, one is called twice and once in vain."""

    def __init__(self):
        super().__init__()
        self.used = nn.Linear(6, 6)
        self.never = nn.Linear(6, 2)
        self.vain = nn.Linear(6, 2)

    def forward(self, x):
        self.vain(x)
        self.used(x + 1)
        return self.used(x)


class BareParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, -1.0, 2.0, 1.0])[:, None, None])
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.conv(torch.tanh(x * self.scale))


class OneDimensional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x):
        return self.conv(x.flatten(2))


class Circular(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))


class SamePadding(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(4, 4, 3, padding="same"))


class InPlaceAfterTheFirstLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.a(x).mul_(2).tanh()


class InPlaceAfterLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        return self.c(F.relu(self.b(torch.tanh(self.a(x))), inplace=True))


class UsedWithoutCalling(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return F.linear(torch.tanh(self.a(x)), self.b.weight, self.b.bias)


class FoldedBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x):
        return self.a(x.flatten(0, 2)).view_as(x).tanh()


class KeywordCall(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x):
        return self.a(input=x).tanh()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


AWKWARD = [InPlaceAfterTheFirstLayer, InPlaceAfterLinear, UsedWithoutCalling, FoldedBatch, KeywordCall]
COVERED = [Strided, NormSink, Linears, CalledTwice, PartlyUnused, OneDimensional, Circular, SamePadding, Tied]
UNCOVERED = [BareParameter, UsedWithoutCalling, FoldedBatch, KeywordCall]


def toy(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return ToyDenoiser(kind())


def toy_batch(denoiser):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(SIZE, *denoiser.latent_shape, generator=generator, dtype=torch.float64)
    shape = denoiser.predict(x, torch.zeros(SIZE), {}).shape
    target = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Batch(x, target, torch.arange(SIZE), {})


@pytest.fixture(scope="module")
def tiny_double(tiny_denoiser):
    denoiser = copy.deepcopy(tiny_denoiser)
    denoiser.module.double()
    return denoiser


@pytest.fixture(scope="module")
def tiny_batch(tiny_double):
    x, noise = torch.randn(2, SIZE, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = torch.tensor([0, 250, 500, 999, 500])
    return Batch(tiny_double.noisy(x, noise, t), noise, t, {})


def rows_of(denoiser, batch, output="loss", backend="hooks", precision="fp32"):
    parameters = denoiser.attributed_parameters("all")
    gradients = per_sample_gradients(denoiser, parameters, MODEL_OUTPUTS[output], backend, precision)
    rows = torch.full((len(batch.t), gradients.total), torch.nan, dtype=torch.float64)
    seen = []

    def sink(offset, values):
        seen.append(offset)
        rows[:, offset : offset + values.shape[1]] = values

    gradients(batch, sink)
    assert sorted(seen) == sorted(gradients.offsets.values())  # each parameter once
    return rows


def assert_equal_rows(a, b):
    scale = b.norm(dim=1, keepdim=True).clamp_min(1e-300)
    assert ((a - b) / scale).abs().max() < 1e-10


@pytest.mark.parametrize("kind", COVERED)
@pytest.mark.parametrize("output", MODEL_OUTPUTS)
def test_hooks_vmap_and_loop_agree_on_every_kind_of_layer(kind, output, caplog):
    denoiser = toy(kind)
    batch = toy_batch(denoiser)
    with caplog.at_level(logging.WARNING):
        rows_of(denoiser, batch)
    assert not caplog.text
    loop = rows_of(denoiser, batch, output, "loop")
    assert_equal_rows(rows_of(denoiser, batch, output, "hooks"), loop)
    assert_equal_rows(rows_of(denoiser, batch, output, "vmap"), loop)


def test_hooks_vmap_and_loop_agree_on_a_unet(tiny_double, tiny_batch):
    loop = rows_of(tiny_double, tiny_batch, backend="loop")
    assert loop.norm(dim=1).min() > 0
    assert_equal_rows(rows_of(tiny_double, tiny_batch, backend="hooks"), loop)
    assert_equal_rows(rows_of(tiny_double, tiny_batch, backend="vmap"), loop)


@pytest.mark.parametrize("backend", ["hooks", "vmap", "loop"])
def test_mean_of_per_sample_gradients_is_the_gradient_of_the_batch_loss(tiny_double, tiny_batch, backend):
    rows = rows_of(tiny_double, tiny_batch, backend=backend)
    predicted = tiny_double.predict(tiny_batch.noisy, tiny_batch.t, {})
    batch_loss = F.mse_loss(predicted, tiny_batch.target)
    direct = torch.autograd.grad(batch_loss, list(tiny_double.module.parameters()))
    assert_equal_rows(rows.mean(0, keepdim=True), torch.cat([g.flatten() for g in direct])[None])


@pytest.mark.parametrize("backend", ["hooks", "vmap", "loop"])
def test_unused_parameters_have_zero_gradients(backend):
    denoiser = toy(PartlyUnused)
    rows = rows_of(denoiser, toy_batch(denoiser), backend=backend)
    used = sum(p.numel() for p in denoiser.module.used.parameters())
    assert rows[:, :used].norm(dim=1).min() > 0
    assert torch.equal(rows[:, used:], torch.zeros_like(rows[:, used:]))


@pytest.mark.parametrize("kind", AWKWARD)
def test_modules_that_hooks_can_be_wrong_about_get_the_right_gradients(kind):
    denoiser = toy(kind)
    batch = toy_batch(denoiser)
    assert_equal_rows(rows_of(denoiser, batch), rows_of(denoiser, batch, backend="vmap"))


@pytest.mark.parametrize("kind", UNCOVERED)
def test_parameters_without_a_hook_fall_back_and_say_so(kind, caplog):
    denoiser = toy(kind)
    batch = toy_batch(denoiser)
    with caplog.at_level(logging.WARNING):
        rows = rows_of(denoiser, batch)
    assert "takes the slower way" in caplog.text
    assert_equal_rows(rows, rows_of(denoiser, batch, backend="loop"))


@pytest.mark.parametrize("backend", ["hooks", "vmap", "loop"])
def test_flags_and_gradients_of_parameters_are_left_as_they_were(backend):
    denoiser = toy(PartlyUnused)
    denoiser.module.never.requires_grad_(False)
    before = {name: p.requires_grad for name, p in denoiser.module.named_parameters()}
    parameters = {name: p for name, p in denoiser.module.named_parameters() if p.requires_grad}
    gradients = per_sample_gradients(denoiser, parameters, MODEL_OUTPUTS["loss"], backend)
    gradients(toy_batch(denoiser), lambda offset, values: None)
    assert {name: p.requires_grad for name, p in denoiser.module.named_parameters()} == before
    assert all(p.grad is None for p in denoiser.module.parameters())


def test_flags_and_hooks_are_restored_after_a_failing_pass():
    denoiser = toy(CalledTwice)
    batch = toy_batch(denoiser)
    wrong = Batch(batch.noisy, batch.target[:, :3], batch.t, {})
    with pytest.raises(RuntimeError):
        rows_of(denoiser, wrong)
    assert all(p.requires_grad for p in denoiser.module.parameters())
    assert not any(module._forward_hooks for module in denoiser.module.modules())


def test_squared_norm_gradient_is_the_loss_gradient_with_target_zero(tiny_double, tiny_batch):
    zero = Batch(tiny_batch.noisy, torch.zeros_like(tiny_batch.target), tiny_batch.t, {})
    assert_equal_rows(rows_of(tiny_double, tiny_batch, "squared-norm"), rows_of(tiny_double, zero, "loss"))


@pytest.mark.parametrize("output", ["squared-norm", "mean"])
def test_outputs_without_a_target_do_not_depend_on_it(tiny_double, tiny_batch, output):
    other = Batch(tiny_batch.noisy, tiny_batch.target + 1, tiny_batch.t, {})
    assert torch.equal(rows_of(tiny_double, tiny_batch, output), rows_of(tiny_double, other, output))
    assert not torch.allclose(rows_of(tiny_double, tiny_batch, "loss"), rows_of(tiny_double, other, "loss"))
