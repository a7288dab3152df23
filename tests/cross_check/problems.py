"""Small models that our engine and the peers differentiate alike, with everything they are differentiated on.

A problem is a diffusion model of one timestep. Our side sees it as a `Denoiser` and items; the peers see the torch
module and the very (noisy, target) tensors that our engine feeds it, so that a difference in scores is never a
difference in data.
"""

from __future__ import annotations

import copy
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from attrbench.contracts.denoiser import Denoiser, Encoded
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.contracts.task import Items, OpenTask, TaskMeta
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.store.fingerprint import fingerprint

TRAIN, QUERIES = 64, 8
SIGNAL, NOISE = 0.8, 0.6
SOURCE = GradientSource(grid=TimestepGrid(kind="uniform", steps=1), noise="per-item")
OPTIONS = "grid=uniform,timesteps=1,noise=per-item"
"""The options that make a method of ours differentiate `SOURCE`."""


class OneStep(Denoiser):
    """A network that sees 0.8 x + 0.6 noise and is to tell the noise."""

    def __init__(self, module: nn.Module, shape: tuple[int, int, int], name: str) -> None:
        self.module = module.eval()
        self.device = torch.device("cpu")
        self.latent_shape = shape
        self.training_steps = 1
        self.fingerprint = fingerprint([name, *(value.tolist() for value in module.state_dict().values())])

    def encode(self, images, prompts, image_range):
        """[-1, 1], channels first."""
        return Encoded(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)

    def attributed_parameters(self, which):
        """All of them, in the module's order, which is the peers' too."""
        return dict(self.module.named_parameters())

    def timesteps(self, grid):
        """The only one."""
        return (0,) * grid.steps

    def noisy(self, latents, noise, t):
        """The forward process."""
        return SIGNAL * latents + NOISE * noise

    def predict(self, noisy, t, conditioning):
        """The module knows no timestep."""
        return self.module(noisy)

    def target(self, latents, noise, t):
        """The noise."""
        return noise

    def generate(self, prompts, seeds):
        """Not needed: queries are drawn like training items."""
        raise NotImplementedError


class Tokens(nn.Module):
    """Linear layers over positions, as in transformers: their inputs have three dimensions."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(channels, width)
        self.outer = nn.Linear(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        tokens = x.flatten(2).transpose(1, 2)
        return self.outer(torch.tanh(self.inner(tokens))).transpose(1, 2).reshape(x.shape)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 16), nn.Unflatten(1, (1, 4, 4)))


def _mlp_without_bias() -> nn.Module:
    layers = nn.Linear(16, 12, bias=False), nn.Tanh(), nn.Linear(12, 16, bias=False)
    return nn.Sequential(nn.Flatten(), *layers, nn.Unflatten(1, (1, 4, 4)))


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(5, 6, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Upsample(scale_factor=2.0),
        nn.Conv2d(6, 2, 3, padding=1),
    )


def _affine() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Unflatten(1, (1, 4, 4)))


NETWORKS = {
    "mlp": (_mlp, (1, 4, 4)),
    "mlp-no-bias": (_mlp_without_bias, (1, 4, 4)),
    "conv": (_convolutions, (2, 6, 6)),
    "tokens": (lambda: Tokens(4, 6), (4, 3, 3)),
    "affine": (_affine, (1, 4, 4)),
}
"""By name: the network and the shape of an item. In `affine` the loss is quadratic in the parameters, so that its
Hessian is the Gauss-Newton matrix wherever it is taken."""


class Data(NamedTuple):
    """What the network sees and what it is to tell, [n, C, H, W] each, as our engine makes it of the items."""

    noisy: Tensor
    target: Tensor


class Problem(OpenTask):
    """A trained small model, its training set and queries.

    Attributes:
        name: of the network.
        meta: what a run wants to know of a task.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.meta = TaskMeta(
            name=f"cross-check-{name}",
            version=1,
            summary="",
            model=name,
            dataset="drawn",
            license="",
            train_items=TRAIN,
            memory="",
        )

    @cached_property
    def train(self) -> Items:
        """Pictures of a few smooth patterns with noise."""
        return _items(self.shape, TRAIN, 1)

    @cached_property
    def queries(self) -> Items:
        """More of the same."""
        return _items(self.shape, QUERIES, 2)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an item."""
        return NETWORKS[self.name][1]

    @cached_property
    def denoiser(self) -> OneStep:
        """Trained for a while, so that gradients are those of a fitted model and not of a random one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = NETWORKS[self.name][0]()
            fresh = OneStep(module, self.shape, self.name)
            latents = fresh.encode(self.train.images, (), "model").latents
            optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
            for _ in range(200):
                noise = torch.randn_like(latents)
                loss = (module(SIGNAL * latents + NOISE * noise) - noise).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return OneStep(module, self.shape, self.name)

    def module(self) -> nn.Module:
        """A copy of the network for a peer, which may wrap it or leave gradients in it."""
        return copy.deepcopy(self.denoiser.module).requires_grad_(True)

    def data(self, split: str) -> Data:
        """What the peers get of `train` or `query`."""
        batches = [batch for _, _, batch in self.samples(split).batches(TRAIN)]
        return Data(torch.cat([batch.noisy for batch in batches]), torch.cat([batch.target for batch in batches]))

    @cached_property
    def gradients(self) -> dict[str, np.ndarray]:
        """[n, p] float64 gradients of the loss by our engine, of `train` and `query`."""
        return {split: self._gradients(split) for split in ("train", "query")}

    def _gradients(self, split: str) -> np.ndarray:
        rows = []
        for _, _, batch in self.samples(split).batches(TRAIN):
            compute = self.samples(split).gradients()
            whole = torch.zeros(len(batch.t), compute.total)

            def keep(offset: int, part: Tensor, whole: Tensor = whole) -> None:
                whole[:, offset : offset + part.shape[1]] = part

            compute(batch, keep)
            rows.append(whole)
        return torch.cat(rows).double().numpy()

    def samples(self, split: str) -> NoisySamples:
        """Of `train` or `query`, as our engine sees them."""
        items = self.train if split == "train" else self.queries
        return NoisySamples(SOURCE, self.denoiser, Split(split, items))

    @cached_property
    def blocks(self) -> dict[str, slice]:
        """The columns of each module's parameters in a gradient, weight before bias."""
        found: dict[str, slice] = {}
        start = 0
        for name, parameter in self.denoiser.module.named_parameters():
            module = name.rpartition(".")[0]
            first = found[module].start if module in found else start
            start += parameter.numel()
            found[module] = slice(first, start)
        return found


def _items(shape: tuple[int, int, int], count: int, seed: int) -> Items:
    channels, height, width = shape
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phase, pitch = generator.uniform(0, 6.3, (2, count, channels, 1, 1))
    waves = np.sin(phase + (x + np.cos(pitch) * y) * generator.uniform(0.5, 2, (count, channels, 1, 1)))
    pictures = 127.5 * (1 + 0.7 * waves) + generator.normal(0, 8, waves.shape)
    images = pictures.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return Items(np.ascontiguousarray(images), ["0"] * count, [""] * count, fingerprint([seed, images.tolist()]))


@cache
def problem(name: str) -> Problem:
    """The problem called `name`, made once."""
    return Problem(name)
