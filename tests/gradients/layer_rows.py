"""Rows of a network by the hooks of its layers and by autograd, and one layer of each rule."""

import torch
import torch.nn.functional as F
from torch import nn

from attrbench.contracts.samples import Batch
from tests.gradients import test_per_sample
from tests.gradients.test_per_sample import ToyDenoiser, assert_equal_rows

SIZE = 4
IDS = 5


def seeded(make):
    """A module with random weights, biases and norm gains, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = make()
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    return module


def gaussian(*shape, seed=2):
    return torch.randn(SIZE, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ids(*shape):
    return torch.randint(0, IDS, (SIZE, *shape), generator=torch.Generator().manual_seed(2))


def setup(module, x):
    denoiser = ToyDenoiser(module)
    with torch.no_grad():
        shape = denoiser.predict(x, None, {}).shape[1:]
    return denoiser, Batch(x, gaussian(*shape, seed=3), torch.arange(SIZE), {})


def rows_of(denoiser, batch, backend="hooks", precision="fp32"):
    return test_per_sample.rows_of(denoiser, batch, "loss", backend, precision)


def direct_rows(denoiser, batch):
    """[B, p] gradients of the loss by plain calls of a network of diffusers and autograd, sample by sample."""
    parameters, rows = list(denoiser.attributed_parameters("").values()), []
    for b in range(len(batch.t)):
        conditioning = {name: value[b : b + 1] for name, value in batch.conditioning.items()}
        predicted = denoiser.module(batch.noisy[b : b + 1], timestep=batch.t[b : b + 1], **conditioning).sample
        loss = F.mse_loss(predicted, batch.target[b : b + 1])
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


def assert_right(module, x, zeros=False):
    """Hooks give the rows that autograd gives, sample by sample; `zeros` where these may be zero."""
    denoiser, batch = setup(module, x)
    loop = rows_of(denoiser, batch, "loop")
    assert zeros or loop.norm(dim=1).min() > 0
    assert_equal_rows(rows_of(denoiser, batch), loop)


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("attrbench")]


def diffusers_rms_norm(dim, bias):
    from diffusers.models.normalization import RMSNorm

    return RMSNorm(dim, 1e-3, bias=bias)


RULES = {
    "linear, [B, C]": (lambda: nn.Linear(4, 3), gaussian(4)),
    "linear, [B, N, C]": (lambda: nn.Linear(4, 3), gaussian(5, 4)),
    "linear, [B, N, M, C]": (lambda: nn.Linear(4, 3), gaussian(5, 2, 4)),
    "linear, [B, C], no bias": (lambda: nn.Linear(4, 3, bias=False), gaussian(4)),
    "linear, [B, N, C], no bias": (lambda: nn.Linear(4, 3, bias=False), gaussian(5, 4)),
    "linear, transposed input": (lambda: nn.Linear(4, 3), gaussian(4, 5).transpose(1, 2)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), gaussian(4, 11)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), groups=2), gaussian(4, 7, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 4, (1, 3, 2), (1, 2, 1), (0, 1, 1), groups=2), gaussian(2, 3, 5, 4)),
    "conv2d, depthwise, no bias": (lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False), gaussian(4, 5, 5)),
    "conv2d, the stride leaves a rest": (lambda: nn.Conv2d(3, 4, 2, stride=3), gaussian(3, 7, 6)),
    "conv2d, channels last": (
        lambda: nn.Conv2d(4, 6, 3, padding=1),
        gaussian(4, 5, 5).to(memory_format=torch.channels_last),
    ),
    "conv1d, circular": (lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), gaussian(2, 6)),
    "conv2d, circular, stride": (
        lambda: nn.Conv2d(2, 4, 3, stride=2, padding=(1, 2), padding_mode="circular", groups=2),
        gaussian(2, 5, 6),
    ),
    "conv2d, reflect": (lambda: nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="reflect"), gaussian(2, 5, 6)),
    "conv2d, replicate": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), gaussian(2, 5, 6)),
    "conv3d, circular": (lambda: nn.Conv3d(2, 2, 3, padding=1, padding_mode="circular"), gaussian(2, 3, 3, 4)),
    "conv1d, same": (lambda: nn.Conv1d(2, 3, 4, padding="same"), gaussian(2, 6)),
    "conv2d, same, even kernel": (lambda: nn.Conv2d(2, 4, (2, 4), padding="same", groups=2), gaussian(2, 5, 6)),
    "conv2d, same, dilated": (lambda: nn.Conv2d(2, 3, 2, padding="same", dilation=(1, 3)), gaussian(2, 5, 6)),
    "conv2d, same, reflect": (
        lambda: nn.Conv2d(2, 3, 3, padding="same", padding_mode="reflect"),
        gaussian(2, 5, 6),
    ),
    "conv3d, same": (lambda: nn.Conv3d(2, 2, (1, 2, 3), padding="same"), gaussian(2, 3, 3, 4)),
    "conv2d, valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), gaussian(2, 5, 6)),
    "group norm, [B, C, N]": (lambda: nn.GroupNorm(2, 4), gaussian(4, 5)),
    "group norm, [B, C, H, W]": (lambda: nn.GroupNorm(2, 4, eps=1e-2), gaussian(4, 3, 5)),
    "group norm, [B, C, D, H, W]": (lambda: nn.GroupNorm(1, 4), gaussian(4, 2, 3, 2)),
    "layer norm, [B, C]": (lambda: nn.LayerNorm(4), gaussian(4)),
    "layer norm, [B, N, C]": (lambda: nn.LayerNorm(4, eps=1e-2), gaussian(5, 4)),
    "layer norm, [B, N, M, C]": (lambda: nn.LayerNorm(4), gaussian(5, 2, 4)),
    "layer norm, no bias": (lambda: nn.LayerNorm(4, bias=False), gaussian(5, 4)),
    "layer norm over two dimensions": (lambda: nn.LayerNorm((3, 4)), gaussian(5, 3, 4)),
    "layer norm over all of a sample": (lambda: nn.LayerNorm((3, 4)), gaussian(3, 4)),
    "layer norm over two dimensions, no bias": (lambda: nn.LayerNorm((3, 4), bias=False), gaussian(5, 3, 4)),
    "diffusers' rms norm": (lambda: diffusers_rms_norm(4, False), gaussian(5, 4)),
    "diffusers' rms norm, bias": (lambda: diffusers_rms_norm(4, True), gaussian(2, 5, 4)),
    "diffusers' rms norm, bias, [B, C]": (lambda: diffusers_rms_norm(4, True), gaussian(4)),
    "embedding": (lambda: nn.Embedding(IDS, 3), ids(7)),
    "embedding, [B, N, M]": (lambda: nn.Embedding(IDS, 3), ids(4, 2)),
    "embedding, padding": (lambda: nn.Embedding(IDS, 3, padding_idx=1), ids(7)),
    "embedding, padding counted from the end": (lambda: nn.Embedding(IDS, 3, padding_idx=-1), ids(7)),
    "embedding, int32": (lambda: nn.Embedding(IDS, 3), ids(7).int()),
}


def in_bfloat16(module, x):
    """Rows of hooks and of the loop where the forward pass runs under bfloat16 autocast."""
    denoiser, batch = setup(module, x)
    denoiser.module.float()
    noisy = batch.noisy.float() if batch.noisy.is_floating_point() else batch.noisy
    batch = Batch(noisy, batch.target.float(), batch.t, {})
    return [rows_of(denoiser, batch, backend, "bf16") for backend in ("hooks", "loop")]


class OwnForward(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2
