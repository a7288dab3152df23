"""Hooks give autograd's gradients under gradient checkpointing, and on CUDA, or say what to do."""

from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from attrbench.contracts.samples import Batch
from attrbench.errors import AttrbenchError
from tests.gradients.layer_rows import RULES, assert_right, gaussian, lines, rows_of, seeded, setup
from tests.gradients.test_per_sample import assert_equal_rows


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 4), nn.LayerNorm(4))

    def forward(self, x):
        return x + self.layers(x)


class Checkpointed(nn.Module):
    reentrant = False

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def run(self, block, x):
        return checkpoint(block, x, use_reentrant=self.reentrant)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = self.run(block, x)
        return self.last(x)


class CheckpointedFromTheStart(Checkpointed):
    def forward(self, x):
        for block in self.blocks:
            x = self.run(block, x)
        return x


class CheckpointedOneLayer(Checkpointed):
    def forward(self, x):
        return self.last(torch.tanh(self.run(self.first, x)))


class CheckpointedTwice(Checkpointed):
    def forward(self, x):
        x = self.first(x)
        return self.last(self.run(self.blocks[0], self.run(self.blocks[0], x)))


class InsideAndOutside(Checkpointed):
    def forward(self, x):
        return self.last(self.run(self.blocks[0], self.blocks[0](self.first(x))))


class TwiceInOneCheckpoint(Checkpointed):
    def forward(self, x):
        return self.last(self.run(lambda x: self.blocks[0](self.blocks[0](x)), self.first(x)))


class Nested(Checkpointed):
    def forward(self, x):
        return self.run(lambda x: self.last(self.run(self.blocks[1], self.run(self.blocks[0], x))), self.first(x))


class InPlaceInACheckpoint(Checkpointed):
    def forward(self, x):
        return self.last(self.run(lambda x: F.relu_(self.blocks[0].layers[0](x))[..., :4], self.first(x)))


CHECKPOINTED = [
    Checkpointed,
    CheckpointedFromTheStart,
    CheckpointedOneLayer,
    CheckpointedTwice,
    InsideAndOutside,
    TwiceInOneCheckpoint,
    Nested,
    InPlaceInACheckpoint,
]


@pytest.mark.parametrize("kind", CHECKPOINTED)
def test_layers_under_gradient_checkpointing_keep_their_hooks(kind, caplog):
    assert_right(seeded(kind), gaussian(5, 4))
    assert not lines(caplog)


class CheckpointedWithABareParameter(Checkpointed):
    """vmap knows no checkpointing."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return super().forward(x * self.gain)


def test_fall_back_under_gradient_checkpointing_takes_one_sample_at_a_time(caplog):
    assert_right(seeded(CheckpointedWithABareParameter), gaussian(5, 4))
    text = "\n".join(lines(caplog))
    assert "no gradient hook for gain" in text
    assert "one sample at a time" in text


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("kind", CHECKPOINTED)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpointing_gives_right_numbers_or_an_error_that_says_what_to_do(kind, precision):
    module = seeded(kind)
    denoiser, batch = setup(module, gaussian(5, 4))
    expected = rows_of(denoiser, batch, "loop")
    module.reentrant = True
    try:
        rows = rows_of(denoiser, batch, precision=precision)
    except (AttrbenchError, RuntimeError) as error:
        assert "use_reentrant=False" in str(error)  # noqa: PT017
    else:
        assert_equal_rows(rows, expected)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_reentrant_checkpointing_after_a_layer_gives_right_numbers_or_our_own_error():
    module = seeded(Checkpointed)
    denoiser, batch = setup(module, gaussian(5, 4))
    module.reentrant = True
    with suppress(AttrbenchError):
        rows_of(denoiser, batch)


def to_cuda(denoiser, batch):
    denoiser.module.cuda()
    denoiser.device = torch.device("cuda")
    return denoiser, Batch(batch.noisy.cuda(), batch.target.cuda(), batch.t.cuda(), {})


CUDA = {name: (lambda make=make: nn.Sequential(make(), nn.Tanh()), x) for name, (make, x) in RULES.items()}


CUDA |= {kind.__name__: (kind, gaussian(5, 4)) for kind in CHECKPOINTED}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CUDA)
def test_hooks_on_cuda_give_autograds_gradients_there_and_on_the_cpu(name, caplog):
    make, x = CUDA[name]
    denoiser, batch = setup(seeded(make), x)
    on_cpu = rows_of(denoiser, batch, "loop")
    denoiser, batch = to_cuda(denoiser, batch)
    hooks = rows_of(denoiser, batch)
    for expected in (rows_of(denoiser, batch, "loop"), on_cpu):  # a norm may work in single precision inside
        assert ((hooks - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-6
    assert not lines(caplog)
