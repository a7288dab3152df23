"""The sketch `factored` against `rotation`: the time of a pass over SD 3's transformer block, and what it errs."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from attrbench.contracts.computation import Engine
from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.gradient_source import GradientSource, Sketch, SketchForm, TimestepGrid
from attrbench.contracts.samples import Batch
from attrbench.contracts.task import Workspace
from attrbench.evaluation.requests import request_tasks
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.backends import per_sample_gradients
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.gradients.model_outputs import MODEL_OUTPUTS
from attrbench.gradients.per_sample import frozen
from attrbench.gradients.samples import Split
from attrbench.gradients.sketching.forms import input_projection
from attrbench.plugins.registry import registry
from attrbench.store.encoding import decode_rows
from attrbench.store.shards import FeatureStore, Unit
from tests.benchmarks.gradients import CPU, Network, PassWithSketches
from tests.benchmarks.sketches import LENGTHS
from tests.benchmarks.timing import Figure, paired

HEADS, HEAD, IMAGE, TEXT, SIZE = 24, 64, 1024, 333, 2
FORMS: tuple[SketchForm, ...] = ("rotation", "factored")
TASKS = ("digits-mini", "ddpm-mnist-mini")
ITEMS, SEEDS, WIDTHS = 24, 6, (4096, 16384)
SOURCE = GradientSource(grid=TimestepGrid(steps=2))


class Block(nn.Module):
    """SD 3 Medium's transformer block at its true width, 85 million parameters; both streams in one tensor."""

    def __init__(self) -> None:
        from diffusers.models.attention import JointTransformerBlock

        super().__init__()
        self.block = JointTransformerBlock(HEADS * HEAD, HEADS, HEAD)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        text, image = self.block(x[:, :IMAGE], x[:, IMAGE:], timestep)
        return torch.cat([image, text], dim=1)


class BlockNetwork(Network):
    """The block as a denoiser; only what the back ends ask of one."""

    def __init__(self, device: torch.device = CPU) -> None:
        torch.manual_seed(0)
        self.module = Block().eval().to(device)
        self.device = device

    def predict(self, noisy, t, conditioning):
        return self.module(noisy, conditioning["timestep"])


def block_batch(device: torch.device = CPU) -> Batch:
    """Tokens of pictures of 512x512 pixels with their texts: 1,357 positions a sample."""
    torch.manual_seed(1)
    noisy, target = torch.randn(2, SIZE, IMAGE + TEXT, HEADS * HEAD, device=device)
    timestep = torch.randn(SIZE, HEADS * HEAD, device=device)
    return Batch(noisy, target, torch.zeros(SIZE, device=device), {"timestep": timestep})


def speed() -> list[Figure]:
    """Processor time of a pass with sketches to 2^20, 2^16 and 2^12 against a plain backward of the same batch.

    First what no pass can do without: forward pass and gradients of activations.
    """
    network, batch = BlockNetwork(), block_batch()
    parameters = dict(network.module.named_parameters())
    loss = MODEL_OUTPUTS["loss"]
    engines = {
        form: per_sample_gradients(network, parameters, loss, projection=input_projection(Sketch(length=1, form=form)))
        for form in FORMS
    }

    def plain() -> None:
        network.module.zero_grad()
        engines["rotation"].outputs(batch).sum().backward()

    def activations() -> None:
        noisy = batch.noisy.clone().requires_grad_()
        with frozen(network.module):
            engines["rotation"].outputs(replace(batch, noisy=noisy)).sum().backward()

    title, against = f"SD 3's block, {SIZE} samples, no weight gradients", "plain batched backward"
    figures = [paired(title, activations, against, plain, "", 2, time.process_time)]
    for form, bound in zip(FORMS, ("", "<= 0.8"), strict=True):
        work = PassWithSketches(engines[form], LENGTHS)
        title = f"SD 3's block, {SIZE} samples, sketch={form}"
        figures.append(paired(title, lambda work=work: work(batch), against, plain, bound, 2, time.process_time))
    return figures


def errors() -> list[Figure]:
    """Root mean square error of the cosines of gradients, over pairs of items and seeds, factored against rotation."""
    return [figure for task in TASKS for figure in _errors(task)]


def _errors(task: str) -> list[Figure]:
    (request,) = request_tasks(registry(), [task])
    with tempfile.TemporaryDirectory() as folder:
        opened = request.task.open(Workspace(Path(folder), CPU))
        split = Split("train", opened.train)
        whole = GradientPass(SOURCE, opened.denoiser, split, Engine()).whole(Unit(0, ITEMS)).transpose(0, 1).double()
        exact = _cosines(whole / whole.norm(dim=2, keepdim=True))
        spread = {}
        for form in FORMS:
            found = [_rows(form, seed, opened.denoiser, split) for seed in range(SEEDS)]
            for v in WIDTHS:
                errors = torch.stack([_cosines(rows[v]) - exact for rows in found])
                spread[form, v] = float(errors.square().mean().sqrt())
    title = f"{task}, cosines of {float(exact.mean()):.2f}: rms error, factored"
    pairs = [(v, spread["factored", v], spread["rotation", v]) for v in WIDTHS]
    return [Figure(f"{title}, v={v}", mine, "", "rotation", theirs, mine / theirs) for v, mine, theirs in pairs]


def _rows(form: SketchForm, seed: int, denoiser: Denoiser, split: Split) -> dict[int, Tensor]:
    """Return v -> [n, T, v] rows of the first items, computed as a run computes them."""
    unit = Unit(0, ITEMS)
    features = {v: GradientRows(source=SOURCE, sketch=Sketch(length=v, seed=seed, form=form)) for v in WIDTHS}
    with tempfile.TemporaryDirectory() as folder:
        stores = {feature: FeatureStore(Path(folder), {"v": v}) for v, feature in features.items()}
        work = GradientPass(SOURCE, denoiser, split, Engine(), projection=features[WIDTHS[0]].projection)
        work.compute(unit, stores)
        return {v: torch.tensor(decode_rows(stores[features[v]].read(unit))).double() for v in WIDTHS}


def _cosines(rows: Tensor) -> Tensor:
    """Return the inner products of the rows of each pair of items at each timestep, [pairs, T]."""
    left, right = torch.triu_indices(len(rows), len(rows), offset=1)
    return (rows[left] * rows[right]).sum(2)
