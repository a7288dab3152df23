"""Kronecker-factored curvature: K-FAC and its eigenvalue-corrected form EK-FAC (methods-spec M12).

A layer's weight W [o, i] (a bias is one more input, which is always 1) has the gradient sum_r s_r a_r^T over its
positions, a the inputs and s the gradients of the outputs. K-FAC takes E[vec(g) vec(g)^T] for the Kronecker product of
A and S, the second moments of a and s; EK-FAC keeps their eigenvectors and measures the second moment along each pair
of them anew.
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
    """How factors are estimated.

    Attributes:
        fisher: `mc`, the Gauss-Newton matrix by gradients of random outputs, one draw a pair; `empirical`, by
            gradients of the loss.
        sharing: `expand`, positions count as samples of their own; `reduce`, inputs are averaged and gradients added
            up over positions first (Eschenhagen et al. 2023).
        draws: pairs of item and timestep for the eigenvectors, and as many others for the eigenvalues.
        seed: of the draws.
    """

    fisher: Fisher = "mc"
    sharing: Sharing = "expand"
    draws: int = 4096
    seed: int = 0


@dataclass(frozen=True)
class LayerFactors:
    """The curvature of one layer.

    Attributes:
        inputs: [i, i] eigenvectors of A, in columns.
        outputs: [o, o] eigenvectors of S.
        kfac: [o, i] products of their eigenvalues.
        ekfac: [o, i] second moments of the gradient along each pair of eigenvectors.
    """

    inputs: Tensor
    outputs: Tensor
    kfac: Tensor
    ekfac: Tensor

    def solve(self, gradients: Tensor, corrected: bool, damping: float, relative: bool) -> Tensor:
        """(H + lam I)^-1 V for V [..., o, i]; a relative damping is times the mean eigenvalue."""
        values = (self.ekfac if corrected else self.kfac).double()
        unit = float(values.mean()) if relative else 1.0
        scale = 1 / (values + (damping * unit if unit > 0 else damping))
        rotated = self.outputs.T @ gradients @ self.inputs
        return self.outputs @ (rotated * scale.to(gradients.dtype)) @ self.inputs.T


class TrackedLayer:
    """A Linear or Conv2d module whose weight is attributed, and where its parameters lie in the whole gradient."""

    def __init__(self, name: str, module: nn.Linear | nn.Conv2d, offsets: Mapping[str, int]) -> None:
        self.name = name
        self.module = module
        self.weight = offsets[f"{name}.weight"]
        self.bias = offsets.get(f"{name}.bias")
        self.rows = len(module.weight)
        self.columns = module.weight.numel() // self.rows

    def patches(self, x: Tensor) -> Tensor:
        """[B, R, i] inputs by position, with a last column of ones where there is a bias."""
        module = self.module
        if isinstance(module, nn.Conv2d):
            assert not isinstance(module.padding, str)
            x = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride).transpose(1, 2)
        else:
            x = x.reshape(len(x), -1, x.shape[-1])
        return x if self.bias is None else torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2)

    def positions(self, g: Tensor) -> Tensor:
        """[B, R, o] gradients of the outputs by position."""
        if isinstance(self.module, nn.Conv2d):
            return g.flatten(2).transpose(1, 2)
        return g.reshape(len(g), -1, g.shape[-1])

    def take(self, whole: Tensor) -> Tensor:
        """[..., o, i] this layer's part of whole gradients [..., p]."""
        weight = whole[..., self.weight : self.weight + self.rows * self.columns]
        weight = weight.reshape(*whole.shape[:-1], self.rows, self.columns)
        if self.bias is None:
            return weight
        return torch.cat([weight, whole[..., self.bias : self.bias + self.rows, None]], dim=-1)

    def put(self, whole: Tensor, part: Tensor) -> None:
        """The inverse of `take`, in place."""
        end = self.weight + self.rows * self.columns
        whole[..., self.weight : end] = part[..., : self.columns].flatten(-2)
        if self.bias is not None:
            whole[..., self.bias : self.bias + self.rows] = part[..., self.columns]


class KroneckerFactors:
    """The factors of all tracked layers.

    Args:
        layers: by name.
        factors: by the same names.
    """

    def __init__(self, layers: list[TrackedLayer], factors: Mapping[str, LayerFactors]) -> None:
        self.layers = layers
        self.factors = factors

    def solve(self, gradients: Tensor, corrected: bool, damping: float, relative: bool) -> Tensor:
        """(H + lam I)^-1 g for whole gradients [..., p]; zero for parameters of layers that are not tracked."""
        solved = torch.zeros_like(gradients)
        for layer in self.layers:
            part = self.factors[layer.name].solve(layer.take(gradients), corrected, damping, relative)
            layer.put(solved, part)
        return solved

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, to be kept."""
        return {f"{name}/{key}": value for name, each in self.factors.items() for key, value in vars(each).items()}

    @staticmethod
    def of(layers: list[TrackedLayer], tensors: Mapping[str, Tensor]) -> KroneckerFactors:
        """The inverse of `tensors`."""
        keys = ("inputs", "outputs", "kfac", "ekfac")
        layers = [layer for layer in layers if f"{layer.name}/inputs" in tensors]
        found = {layer.name: {key: tensors[f"{layer.name}/{key}"] for key in keys} for layer in layers}
        return KroneckerFactors(layers, {name: LayerFactors(**each) for name, each in found.items()})


def tracked_layers(pairs: Samples) -> list[TrackedLayer]:
    """The Linear and Conv2d modules whose weights are attributed; others are named in the log and left out.

    Raises:
        Unavailable: where there is none.
    """
    gradients = pairs.gradients()
    found, left = [], set(pairs.parameters)
    for name, module in pairs.denoiser.module.named_modules():
        if f"{name}.weight" in pairs.parameters and _fits(module):
            layer = TrackedLayer(name, module, gradients.offsets)
            found.append(layer)
            left -= {f"{name}.weight", f"{name}.bias"}
    if not found:
        raise Unavailable("no attributed parameter belongs to a Linear or Conv2d layer")
    if left:
        log.info("%d parameters of other layers take no part in K-FAC: %s", len(left), ", ".join(sorted(left)[:5]))
    return found


def _fits(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        return False
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return False
    return isinstance(module, nn.Linear | nn.Conv2d) and has_rule(module)


def kronecker_factors(pairs: Samples, options: FactorOptions) -> KroneckerFactors:
    """Estimates the factors over pairs drawn from all there are, batch by batch.

    Second moments are sums over items of what one pair contributes, the loss being a mean over the d outputs.
    """
    layers = tracked_layers(pairs)
    moments = {layer.name: _Moments(layer, options.sharing) for layer in layers}
    drawn = 0
    with _listening(layers, lambda layer, x, g: moments[layer.name].add(x, g)):
        for batch in _draws(pairs, options, "vectors"):
            _backward(pairs, batch, _output(options.fisher))
            drawn += len(batch.t)
    layers = [layer for layer in layers if moments[layer.name].seen]
    eigen = {layer.name: moments[layer.name].eigen(drawn) for layer in layers}
    corrected = {layer.name: torch.zeros_like(eigen[layer.name][2]) for layer in layers}
    gradients = pairs.gradients(_output(options.fisher))
    drawn = 0
    for batch in _draws(pairs, options, "values"):
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
    """Adds the squares of each pair's own gradient, in the eigenvectors, layer by layer as the gradients come."""
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
    """A and S of one layer, added up batch by batch."""

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
        """Whether the output depended on the layer at all."""
        return self._inputs > 0

    def eigen(self, pairs: int) -> Eigen:
        """Eigenvectors of A (a mean over positions) and of S (a sum over them), products of the eigenvalues [o, i]."""
        assert isinstance(self._a, Tensor) and isinstance(self._s, Tensor)
        a, inputs = torch.linalg.eigh(self._a / self._inputs)
        s, outputs = torch.linalg.eigh(self._s / pairs)
        return inputs, outputs, torch.outer(s.clamp_min(0), a.clamp_min(0)).float()


def _output(fisher: Fisher) -> ModelOutput:
    return _random_output if fisher == "mc" else loss


def _random_output(predicted: Tensor, target: Tensor) -> Tensor:
    """Sqrt(2/d) <e, u>, u standard normal in the target's place: its gradient's second moment is J^T (2/d) J."""
    d = predicted[0].numel()
    return (predicted * target).flatten(1).sum(1) * math.sqrt(2 / d)


def _draws(pairs: Samples, options: FactorOptions, purpose: str) -> Iterator[Batch]:
    """Batches of drawn pairs, with random numbers for targets where the output is random."""
    draws = torch.Generator().manual_seed(seed_of("kronecker", purpose, options.seed))
    for first in range(0, options.draws, BATCH):
        batch = pairs.drawn(min(BATCH, options.draws - first), draws)
        if options.fisher == "mc":
            random = torch.randn(batch.target.shape, generator=draws).to(batch.target)
            batch = Batch(batch.noisy, random, batch.t, batch.conditioning, batch.weight)
        yield batch


def _backward(pairs: Samples, batch: Batch, output: ModelOutput) -> None:
    with frozen(pairs.denoiser.module), torch.enable_grad():
        predicted = pairs.denoiser.predict(batch.noisy, batch.t, batch.conditioning)
        values = output(predicted, batch.target)
        (values if batch.weight is None else values * batch.weight).sum().backward()


@contextmanager
def _listening(layers: list[TrackedLayer], receive: Callable[[TrackedLayer, Tensor, Tensor], None]) -> Iterator[None]:
    """Hands each layer's input and the gradient of its output to `receive` on the way back."""

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
