"""Per-sample gradients of a UNet2DModel of 1.1 million parameters at 28x28, batch 64."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.samples import Batch
from attrbench.gradients.backends import BACKENDS
from attrbench.gradients.layer_blocks import layer_blocks
from attrbench.gradients.model_outputs import MODEL_OUTPUTS
from attrbench.gradients.per_sample import PerSampleGradients
from attrbench.gradients.sinks import NormSink, SketchSink
from tests.benchmarks.timing import Figure, paired

SIZE = 64
CPU = torch.device("cpu")


class Network(Denoiser):
    """A network with random weights; only what the back ends ask of a denoiser."""

    def __init__(self, device: torch.device = CPU) -> None:
        from diffusers import UNet2DModel

        torch.manual_seed(0)
        self.module = (
            UNet2DModel(
                sample_size=28,
                in_channels=1,
                out_channels=1,
                layers_per_block=1,
                block_out_channels=(32, 64, 64),
                norm_num_groups=8,
                down_block_types=("DownBlock2D",) * 3,
                up_block_types=("UpBlock2D",) * 3,
            )
            .eval()
            .to(device)
        )
        self.device = device

    def predict(self, noisy, t, conditioning):
        return self.module(noisy, t, return_dict=False)[0]

    encode = attributed_parameters = timesteps = noisy = target = generate = None


Network.__abstractmethods__ = frozenset()


def noisy_batch(device: torch.device = CPU) -> Batch:
    """Noisy pictures for the network."""
    torch.manual_seed(1)
    noisy, target = torch.randn(2, SIZE, 1, 28, 28)
    return Batch(noisy.to(device), target.to(device), torch.randint(0, 1000, (SIZE,)).to(device), {})


class PassWithSketches:
    """A pass with norms and sketches, by default to 65,536 and 4,096, by the hooks' engine."""

    def __init__(self, hooks: PerSampleGradients, lengths: Sequence[int] = (65536, 4096)) -> None:
        sizes = {name: parameter.numel() for name, parameter in hooks.parameters.items()}
        layers = layer_blocks(hooks.offsets, sizes, "all")
        self.hooks = hooks
        self.lengths = lengths
        self.sinks = (NormSink(), SketchSink(layers, False, "rotation", lengths, 0))

    def __call__(self, batch: Batch) -> None:
        for each in self.sinks:
            each.start(torch.arange(len(batch.t)), batch.t, torch.float32, self.hooks.denoiser.device)
        self.hooks(batch, lambda offset, rows: [each.add(offset, rows) for each in self.sinks])
        for length in self.lengths:
            self.sinks[1].result(length)


def speed() -> list[Figure]:
    """Against a plain batched backward, which gives one gradient for the whole batch."""
    denoiser = Network()
    parameters = dict(denoiser.module.named_parameters())
    batch = noisy_batch()
    engines = {name: kind(denoiser, parameters, MODEL_OUTPUTS["loss"]) for name, kind in BACKENDS.items()}
    hooks = engines["hooks"]

    def plain() -> None:
        denoiser.module.zero_grad()
        hooks.outputs(batch).sum().backward()

    def sink(offset: int, rows: torch.Tensor) -> None:
        pass

    with_sketches = PassWithSketches(hooks)
    against = "plain batched backward"
    figures = [
        paired("per-sample gradients, hooks", lambda: hooks(batch, sink), against, plain, "<= 1.5"),
        paired("the same, sketched to 65536 and 4096", lambda: with_sketches(batch), against, plain),
        paired("per-sample gradients, vmap", lambda: engines["vmap"](batch, sink), against, plain, runs=3),
        paired(
            "per-sample gradients, one at a time",
            lambda: engines["loop"](batch, sink),
            "hooks",
            lambda: hooks(batch, sink),
            ">= 2",
            runs=3,
        ),
    ]
    mine, true = _whole(hooks, batch), _whole(engines["loop"], batch)
    error = float(((mine - true).norm(dim=1) / true.norm(dim=1)).max())
    figures.append(Figure("largest relative difference, hooks", error, "", "one at a time", 1.0, error, "<= 1e-5"))
    return figures


def _whole(engine: PerSampleGradients, batch: Batch) -> torch.Tensor:
    rows = torch.zeros(len(batch.t), engine.total)

    def sink(offset: int, values: torch.Tensor) -> None:
        rows[:, offset : offset + values.shape[1]] = values

    engine(batch, sink)
    return rows
