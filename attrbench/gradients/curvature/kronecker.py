"""Compute Kronecker-factored curvature: K-FAC, and its eigenvalue-corrected form EK-FAC.

A layer's weight W [o, i] (a bias is one more input, which is always 1) has the gradient sum_r s_r a_r^T over its
positions r, with a the inputs and s the gradients of the outputs. K-FAC approximates E[vec(g) vec(g)^T] by the
Kronecker product of A and S, the second moments of a and s; EK-FAC keeps their eigenvectors and estimates the second
moment of the gradient along each pair of eigenvectors.

Sources: Martens and Grosse 2015 (arXiv:1503.05671); George et al. 2018 (arXiv:1806.03884).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrbench.contracts.samples import Batch, ModelOutput, SampleGradients, Samples
from attrbench.errors import Unavailable
from attrbench.gradients.hooks import tapped
from attrbench.gradients.layers import has_rule
from attrbench.gradients.model_outputs import loss
from attrbench.gradients.per_sample import frozen
from attrbench.models.noise import seed_of

log = logging.getLogger(__name__)

Fisher = Literal["mc", "empirical"]
Sharing = Literal["expand", "reduce"]
BATCH = 32


@dataclass(frozen=True)
class FactorOptions:
    """Options for estimating Kronecker factors of a network's curvature: gradients used, positions, samples, seed.

    Attributes:
        fisher: `mc` estimates the Gauss-Newton matrix by gradients of random outputs, one draw for each noisy sample;
            `empirical` uses gradients of the loss.
        sharing: `expand`, positions count as samples of their own; `reduce`, inputs are averaged and gradients added
            up over positions first (Eschenhagen et al. 2023).
        draws: number of noisy samples for the eigenvectors, and again for the eigenvalues.
        seed: seed of the draws.
    """

    fisher: Fisher = "mc"
    sharing: Sharing = "expand"
    draws: int = 4096
    seed: int = 0


@dataclass(frozen=True)
class LayerFactors:
    """The Kronecker-factored curvature of one layer with weight [o, i]: its eigenvectors and eigenvalues.

    Attributes:
        inputs: [i, i] eigenvectors of A, in columns.
        outputs: [o, o] eigenvectors of S, in columns.
        kfac: [o, i] products of the eigenvalues of S and A.
        ekfac: [o, i] second moments of the gradient along each pair of eigenvectors.
    """

    inputs: Tensor
    outputs: Tensor
    kfac: Tensor
    ekfac: Tensor

    def solve(self, gradients: Tensor, corrected: bool, damping: float, relative: bool) -> Tensor:
        """Return (H + lam I)^-1 V for this layer's V [..., o, i]; relative damping is in mean eigenvalues."""
        values = (self.ekfac if corrected else self.kfac).double()
        unit = float(values.mean()) if relative else 1.0
        scale = 1 / (values + (damping * unit if unit > 0 else damping))
        rotated = self.outputs.T @ gradients @ self.inputs
        return self.outputs @ (rotated * scale.to(gradients.dtype)) @ self.inputs.T


class TrackedLayer:
    """A Linear or Conv2d module whose curvature is estimated, with its offsets in the concatenated gradient."""

    def __init__(self, name: str, module: nn.Linear | nn.Conv2d, offsets: Mapping[str, int]) -> None:
        self.name = name
        self.module = module
        self.weight = offsets[f"{name}.weight"]
        self.bias = offsets.get(f"{name}.bias")
        self.rows = len(module.weight)
        self.columns = module.weight.numel() // self.rows

    def patches(self, x: Tensor) -> Tensor:
        """Return a layer's input vectors by position, [B, R, i] (ones last for a bias), for K-FAC's second moments."""
        module = self.module
        if isinstance(module, nn.Conv2d):
            assert not isinstance(module.padding, str)
            x = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride).transpose(1, 2)
        else:
            x = x.reshape(len(x), -1, x.shape[-1])
        return x if self.bias is None else torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2)

    def positions(self, g: Tensor) -> Tensor:
        """Return the gradients of the layer's output by position, [B, R, o]."""
        if isinstance(self.module, nn.Conv2d):
            return g.flatten(2).transpose(1, 2)
        return g.reshape(len(g), -1, g.shape[-1])

    def take(self, whole: Tensor) -> Tensor:
        """Return this layer's part of whole gradients [..., p], as weight matrices [..., o, i]."""
        weight = whole[..., self.weight : self.weight + self.rows * self.columns]
        weight = weight.reshape(*whole.shape[:-1], self.rows, self.columns)
        if self.bias is None:
            return weight
        return torch.cat([weight, whole[..., self.bias : self.bias + self.rows, None]], dim=-1)

    def put(self, whole: Tensor, part: Tensor) -> None:
        """Write this layer's part [..., o, i] into whole gradients [..., p], in place."""
        end = self.weight + self.rows * self.columns
        whole[..., self.weight : end] = part[..., : self.columns].flatten(-2)
        if self.bias is not None:
            whole[..., self.bias : self.bias + self.rows] = part[..., self.columns]


class KroneckerFactors:
    """The Kronecker-factored curvature of all tracked layers (Linear, Conv2d), to multiply by its damped inverse.

    Args:
        layers: the tracked layers.
        factors: layer name -> factors.
    """

    def __init__(self, layers: list[TrackedLayer], factors: Mapping[str, LayerFactors]) -> None:
        self.layers = layers
        self.factors = factors

    def solve(self, gradients: Tensor, corrected: bool, damping: float, relative: bool) -> Tensor:
        """Return (H + lam I)^-1 g, H the curvature, for whole gradients g [..., p]; zero for untracked parameters."""
        solved = torch.zeros_like(gradients)
        for layer in self.layers:
            part = self.factors[layer.name].solve(layer.take(gradients), corrected, damping, relative)
            layer.put(solved, part)
        return solved

    def tensors(self) -> dict[str, Tensor]:
        """Return all Kronecker factors as name -> tensor, to save in a safetensors file."""
        return {f"{name}/{key}": value for name, each in self.factors.items() for key, value in vars(each).items()}

    @staticmethod
    def of(layers: list[TrackedLayer], tensors: Mapping[str, Tensor]) -> KroneckerFactors:
        """Return the Kronecker factors restored from the tensors that `tensors` returned."""
        keys = ("inputs", "outputs", "kfac", "ekfac")
        layers = [layer for layer in layers if f"{layer.name}/inputs" in tensors]
        by_layer = {layer.name: {key: tensors[f"{layer.name}/{key}"] for key in keys} for layer in layers}
        return KroneckerFactors(layers, {name: LayerFactors(**each) for name, each in by_layer.items()})


def tracked_layers(samples: Samples) -> list[TrackedLayer]:
    """Return the Linear and Conv2d modules whose weights are attributed; other parameters are logged and left out.

    Raises:
        Unavailable: where there is no such module.
    """
    gradients = samples.gradients()
    layers, left = [], set(samples.parameters)
    for name, module in samples.denoiser.module.named_modules():
        if f"{name}.weight" in samples.parameters and _fits(module):
            layer = TrackedLayer(name, module, gradients.offsets)
            layers.append(layer)
            left -= {f"{name}.weight", f"{name}.bias"}
    if not layers:
        raise Unavailable("no attributed parameter belongs to a Linear or Conv2d layer")
    if left:
        log.info("%d parameters of other layers take no part in K-FAC: %s", len(left), ", ".join(sorted(left)[:5]))
    return layers


def _fits(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        return False
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return False
    return isinstance(module, nn.Linear | nn.Conv2d) and has_rule(module)


def kronecker_factors(samples: Samples, options: FactorOptions) -> KroneckerFactors:
    """Estimate the K-FAC and EK-FAC factors of all tracked layers from randomly drawn noisy samples, in batches.

    Second moments are sums over items of what one noisy sample contributes, the loss being a mean over the d outputs.
    """
    layers = tracked_layers(samples)
    moments = {layer.name: _Moments(layer, options.sharing) for layer in layers}
    drawn = 0
    with _listening(layers, lambda layer, x, g: moments[layer.name].add(x, g)):
        for batch in _draws(samples, options, "vectors"):
            _backward(samples, batch, _output(options.fisher))
            drawn += len(batch.t)
    layers = [layer for layer in layers if moments[layer.name].seen]
    eigen = {layer.name: moments[layer.name].eigen(drawn) for layer in layers}
    corrected = {layer.name: torch.zeros_like(eigen[layer.name][2]) for layer in layers}
    gradients = samples.gradients(_output(options.fisher))
    drawn = 0
    for batch in _draws(samples, options, "values"):
        _add_squares(layers, eigen, corrected, gradients, batch)
        drawn += len(batch.t)
    return KroneckerFactors(
        layers,
        {
            name: LayerFactors(inputs.float().contiguous(), outputs.float().contiguous(), kfac, corrected[name] / drawn)
            for name, (inputs, outputs, kfac) in eigen.items()
        },
    )


Eigen = tuple[Tensor, Tensor, Tensor]


def _add_squares(
    layers: list[TrackedLayer],
    eigen: Mapping[str, Eigen],
    corrected: Mapping[str, Tensor],
    gradients: SampleGradients,
    batch: Batch,
) -> None:
    """Add each sample's squared gradient in the eigenbasis to `corrected`, layer by layer as gradients are computed."""
    waiting: dict[int, Tensor] = {}
    owner = {offset: layer for layer in layers for offset in (layer.weight, layer.bias) if offset is not None}

    def sink(offset: int, rows: Tensor) -> None:
        layer = owner.get(offset)
        if layer is None:
            return
        waiting[offset] = rows
        if layer.weight not in waiting or (layer.bias is not None and layer.bias not in waiting):
            return
        part = waiting.pop(layer.weight).view(-1, layer.rows, layer.columns)
        if layer.bias is not None:
            part = torch.cat([part, waiting.pop(layer.bias).unsqueeze(2)], dim=2)
        inputs, outputs, _ = eigen[layer.name]
        rotated = outputs.T.to(part.dtype) @ part @ inputs.to(part.dtype)
        corrected[layer.name].add_(rotated.square().sum(0))

    gradients(batch, sink)


class _Moments:
    """The second moments A of one layer's inputs and S of its output gradients, summed batch by batch for K-FAC."""

    def __init__(self, layer: TrackedLayer, sharing: Sharing) -> None:
        self._layer = layer
        self._reduce = sharing == "reduce"
        self._a: Tensor | float = 0.0
        self._s: Tensor | float = 0.0
        self._inputs = 0

    def add(self, x: Tensor, g: Tensor) -> None:
        a, s = self._layer.patches(x.to(g.dtype)), self._layer.positions(g)
        if self._reduce:
            a, s = a.mean(1, keepdim=True), s.sum(1, keepdim=True)
        self._inputs += a.shape[0] * a.shape[1]
        a, s = a.flatten(0, 1), s.flatten(0, 1)
        self._a = self._a + (a.T @ a).double()
        self._s = self._s + (s.T @ s).double()

    @property
    def seen(self) -> bool:
        """Return whether the model output depended on the layer in any batch."""
        return self._inputs > 0

    def eigen(self, samples: int) -> Eigen:
        """Return the eigenvectors of moments A [i, i] and S [o, o], and the products of their eigenvalues [o, i]."""
        assert isinstance(self._a, Tensor) and isinstance(self._s, Tensor)
        a, inputs = torch.linalg.eigh(self._a / self._inputs)
        s, outputs = torch.linalg.eigh(self._s / samples)
        return inputs, outputs, torch.outer(s.clamp_min(0), a.clamp_min(0)).float()


def _output(fisher: Fisher) -> ModelOutput:
    return _random_output if fisher == "mc" else loss


def _random_output(predicted: Tensor, target: Tensor) -> Tensor:
    """Return [B] random outputs sqrt(2/d) <e, u>, u the normal `target`: E[g g^T] of their gradients is J^T (2/d) J."""
    d = predicted[0].numel()
    return (predicted * target).flatten(1).sum(1) * math.sqrt(2 / d)


def _draws(samples: Samples, options: FactorOptions, purpose: str) -> Iterator[Batch]:
    """Yield batches of randomly drawn noisy samples; for `mc`, targets are replaced by standard normal numbers."""
    draws = torch.Generator().manual_seed(seed_of("kronecker", purpose, options.seed))
    for first in range(0, options.draws, BATCH):
        batch = samples.drawn(min(BATCH, options.draws - first), draws)
        if options.fisher == "mc":
            random = torch.randn(batch.target.shape, generator=draws).to(batch.target)
            batch = Batch(batch.noisy, random, batch.t, batch.conditioning, batch.weight)
        yield batch


def _backward(samples: Samples, batch: Batch, output: ModelOutput) -> None:
    with frozen(samples.denoiser.module), torch.enable_grad():
        predicted = samples.denoiser.predict(batch.noisy, batch.t, batch.conditioning)
        values = output(predicted, batch.target)
        (values if batch.weight is None else values * batch.weight).sum().backward()


@contextmanager
def _listening(layers: list[TrackedLayer], receive: Callable[[TrackedLayer, Tensor, Tensor], None]) -> Iterator[None]:
    """Call `receive` with each layer's input and output gradient in backward passes inside the `with` block."""

    def listen(layer: TrackedLayer) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def forward(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            x = inputs[0].detach()
            output = tapped(output)
            output.register_hook(lambda gradient: receive(layer, x, gradient.detach()))
            return output

        return forward

    handles = [layer.module.register_forward_hook(listen(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
