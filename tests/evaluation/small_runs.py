"""A small task with a sampler and a checkpoint, the methods that share its passes, and what a pass computes."""

import pytest
import torch
from torch import nn

from attrbench.gradients.gradient_pass import GradientPass
from tests.methods.in_memory import Small, SmallTask, seeded, small_items

SHAPE = (2, 3, 3)
N, M = 10, 3
SAMPLER = (800, 600, 400, 200)

CUBIC = (
    "grad-dot:timesteps=2",
    "dmin:timesteps=2,v=32",
    "dmin:timesteps=2,v=32,dtype=int8",
    "dmin:timesteps=2,v=none",
    "shuffled:timesteps=2,v=32",
    "tracin:timesteps=2,checkpoints=1",
)
"""Methods over the loss gradients at DMin's grid and noise."""
UNIFORM = (
    "trak:timesteps=2,v=32",
    "relative-if:timesteps=2,v=32",
    "renorm-if:timesteps=2,v=32",
    "journey-trak:timesteps=2,v=32,sampling_steps=4",
    "grad-cos:timesteps=2,v=32",
    "diffusion-retrac:timesteps=2,v=32",
    "datainf:timesteps=2,v=8",
    "datainf:timesteps=2,v=8,blocks=module,concatenate=true",
    "lissa:timesteps=2,v=8",
    "lissa-released:timesteps=2,v=8",
    "lissa:timesteps=2,hessian=ggn,iterations=20",
    "ekfac:timesteps=2,draws=64",
    "kfac:timesteps=2,draws=64",
)
"""Methods over the loss gradients at D-TRAK's."""
DAS = "das:timesteps=2,v=32"


class Followed(Small):
    """With a sampler, and one checkpoint; in single precision, as models are."""

    dtype = torch.float32

    def trajectory(self, prompts, seeds):
        start = torch.tensor(seeds, dtype=self.dtype)[:, None, None, None, None] / 10
        return start.expand(-1, len(self.sampler), *self.latent_shape)

    def checkpoints(self):
        return ("half",)

    def _load(self, checkpoint):
        return seeded(network, 1).float()


def network():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 1))


def small_task(seeds=(1, 2, 3)):
    denoiser = Followed(seeded(network), SHAPE, SAMPLER)
    return SmallTask(denoiser, small_items(N, SHAPE), small_items(M, SHAPE, 1, seeds and list(seeds)))


@pytest.fixture(scope="module")
def opened():
    return small_task()


@pytest.fixture
def computed(monkeypatch):
    """(split, source, first item, last item) of each piece of a pass as it is computed."""
    seen = []
    inner = GradientPass.compute

    def compute(self, unit, stores):
        if stores:  # a pass whose features were all given up has nothing to do
            seen.append((self.split.name, self.source, *unit))
        inner(self, unit, stores)

    monkeypatch.setattr(GradientPass, "compute", compute)
    return seen


def stages_over(split, plan):
    return [stage for stage in plan.stages if stage.computation.split == split]
