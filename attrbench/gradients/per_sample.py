"""Per-sample gradients of a batch of (item, timestep) pairs in one backward pass.

`HookedGradients` never computes the parameters' own gradients: it freezes them, keeps each layer's input, and forms
every sample's weight gradient when the backward pass reaches the layer, which is then handed on and dropped. The
references `VmapGradients` and `LoopGradients` give the same numbers more slowly, for any module.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attrbench.diffusion.denoiser import Denoiser
from attrbench.gradients.layers import has_rule, layer_gradients
from attrbench.gradients.outputs import ModelOutput

log = logging.getLogger(__name__)

Sink = Callable[[int, Tensor], None]
"""Receives (offset of the parameter in the concatenated vector, its gradients [B, numel]), once a parameter."""


@dataclass(frozen=True)
class Batch:
    """Pairs of an item and a timestep.

    Attributes:
        noisy: [B, C, H, W] network input x_t.
        target: [B, C, H, W] regression target.
        t: [B] timesteps.
        conditioning: tensors with leading dimension B.
    """

    noisy: Tensor
    target: Tensor
    t: Tensor
    conditioning: Mapping[str, Tensor]

    def sample(self, index: int) -> Batch:
        """One pair, as a batch of one."""
        one = slice(index, index + 1)
        conditioning = {name: value[one] for name, value in self.conditioning.items()}
        return Batch(self.noisy[one], self.target[one], self.t[one], conditioning)


class PerSampleGradients(ABC):
    """Computes, for each sample b of a batch, the gradient of output(b) to the attributed parameters.

    Args:
        denoiser: the model.
        parameters: the attributed parameters in the order of the concatenated vector.
        output: the scalar that is differentiated.
    """

    def __init__(self, denoiser: Denoiser, parameters: dict[str, nn.Parameter], output: ModelOutput) -> None:
        self.denoiser = denoiser
        self.parameters = parameters
        self.output = output
        self.offsets: dict[str, int] = {}
        self.total = 0
        for name, parameter in parameters.items():
            self.offsets[name] = self.total
            self.total += parameter.numel()

    @abstractmethod
    def __call__(self, batch: Batch, sink: Sink) -> None:
        """Runs one forward and backward pass, handing every parameter's gradients to `sink`."""

    def outputs(self, batch: Batch) -> Tensor:
        """[B] model outputs."""
        predicted = self.denoiser.predict(batch.noisy, batch.t, batch.conditioning)
        return self.output(predicted, batch.target)


class LoopGradients(PerSampleGradients):
    """One sample at a time, by plain autograd: the reference for everything else."""

    def __call__(self, batch: Batch, sink: Sink) -> None:
        """See `PerSampleGradients`."""
        rows = []
        for b in range(len(batch.t)):
            sample = batch.sample(b)
            gradients = torch.autograd.grad(
                self.outputs(sample).sum(), list(self.parameters.values()), allow_unused=True, materialize_grads=True
            )
            rows.append([gradient.flatten() for gradient in gradients])
        for index, name in enumerate(self.parameters):
            sink(self.offsets[name], torch.stack([row[index] for row in rows]))


class VmapGradients(PerSampleGradients):
    """`torch.func.vmap(grad)`: any module without batch-coupled layers; holds B whole gradients at once."""

    def __call__(self, batch: Batch, sink: Sink) -> None:
        """See `PerSampleGradients`."""
        values = {name: parameter.detach() for name, parameter in self.parameters.items()}
        forward = _Forward(self)

        def one(
            parameters: dict[str, Tensor], noisy: Tensor, target: Tensor, t: Tensor, c: dict[str, Tensor]
        ) -> Tensor:
            sample = Batch(noisy[None], target[None], t[None], {k: v[None] for k, v in c.items()})
            named = {f"module.{name}": value for name, value in parameters.items()}
            output: Tensor = torch.func.functional_call(forward, named, (sample,))
            return output[0]

        gradients = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0, 0, 0))(
            values, batch.noisy, batch.target, batch.t, dict(batch.conditioning)
        )
        for name, gradient in gradients.items():
            sink(self.offsets[name], gradient.flatten(1))


class _Forward(nn.Module):
    """The denoiser's network as a submodule, so that `functional_call` can swap its parameters."""

    def __init__(self, gradients: PerSampleGradients) -> None:
        super().__init__()
        self.module = gradients.denoiser.module
        self._gradients = gradients

    def forward(self, batch: Batch) -> Tensor:
        return self._gradients.outputs(batch)


class HookedGradients(PerSampleGradients):
    """Module hooks for Linear, Conv2d, GroupNorm and LayerNorm; see the module's docstring.

    The first batch is examined: where a hook would not see all there is to a parameter (a weight that is used
    without calling its module, a layer whose samples are not the leading dimension), `vmap` takes over.
    """

    def __init__(self, denoiser: Denoiser, parameters: dict[str, nn.Parameter], output: ModelOutput) -> None:
        super().__init__(denoiser, parameters, output)
        names = {id(parameter): name for name, parameter in parameters.items()}
        self._layers: dict[nn.Module, dict[str, str]] = {}
        for module in denoiser.module.modules():
            own = {a: names[id(p)] for a, p in module.named_parameters(recurse=False) if id(p) in names}
            if own:
                self._layers[module] = own
        self._examined = False
        self._instead: PerSampleGradients | None = None

    @classmethod
    def covers(cls, denoiser: Denoiser, parameters: dict[str, nn.Parameter]) -> str | None:
        """None where every attributed parameter lies in one layer that has a hook, else the first that does not."""
        wanted = {id(parameter): name for name, parameter in parameters.items()}
        seen: set[int] = set()
        for module in denoiser.module.modules():
            for _, parameter in module.named_parameters(recurse=False):
                if id(parameter) not in wanted:
                    continue
                if not has_rule(module):
                    return f"{wanted[id(parameter)]} of {type(module).__name__}"
                if id(parameter) in seen:
                    return f"{wanted[id(parameter)]}, which several modules share,"
                seen.add(id(parameter))
        return next((name for key, name in wanted.items() if key not in seen), None)

    def __call__(self, batch: Batch, sink: Sink) -> None:
        """See `PerSampleGradients`."""
        if not self._examined:
            self._examined = True
            reason = self._examine(batch)
            if reason is not None:
                log.warning("gradient hooks do not fit: %s; using the slower vmap back end", reason)
                self._instead = VmapGradients(self.denoiser, self.parameters, self.output)
        if self._instead is not None:
            self._instead(batch, sink)
            return
        collector = _Collector(len(batch.t), self._layers, self.offsets, sink)
        with _frozen(self.denoiser.module), torch.enable_grad(), collector.attached():
            self.outputs(batch).sum().backward()
        collector.finish(self.parameters)

    def _examine(self, batch: Batch) -> str | None:
        """One forward pass of one sample; returns why hooks would miss something, or None."""
        one = batch.sample(0)
        reached: set[str] = set()
        reasons: list[str] = []

        def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            reached.update(self._layers[module].values())
            if not inputs or not isinstance(inputs[0], Tensor):
                reasons.append(f"{type(module).__name__} is called without a positional input")
            elif len(inputs[0]) != 1:
                reasons.append(f"{type(module).__name__} sees {len(inputs[0])} rows for one sample")

        handles = [module.register_forward_pre_hook(look) for module in self._layers]
        try:
            with torch.no_grad():
                self.outputs(one)
        finally:
            for handle in handles:
                handle.remove()
        silent = {name: parameter for name, parameter in self.parameters.items() if name not in reached}
        used = _used(lambda: self.outputs(one).sum(), silent)
        if used is not None:
            reasons.append(f"{used} is used without calling its module")
        return reasons[0] if reasons else None


def _used(output: Callable[[], Tensor], parameters: dict[str, nn.Parameter]) -> str | None:
    """The first of `parameters` that the output depends on."""
    if not parameters:
        return None
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            total = output()
        if not total.requires_grad:
            return None
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
    return next((name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None), None)


class _Collector:
    """Takes each layer's input on the way forward and forms its per-sample gradients on the way back.

    A module that is called several times in one forward pass has its gradients added up before they are handed on.
    """

    def __init__(self, size: int, layers: dict[nn.Module, dict[str, str]], offsets: dict[str, int], sink: Sink) -> None:
        self._size = size
        self._layers = layers
        self._offsets = offsets
        self._sink = sink
        self._pending: dict[nn.Module, int] = {}
        self._sums: dict[str, Tensor] = {}
        self._done: set[str] = set()

    @contextmanager
    def attached(self) -> Iterator[None]:
        handles = [module.register_forward_hook(self._forward) for module in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _forward(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x = inputs[0].detach()
        if not output.requires_grad:  # nothing before this layer asks for a gradient; the chain starts here
            output = output.detach().requires_grad_()
        if output.is_leaf or output._is_view():  # what comes next may work in place, which neither would survive
            output = output.clone()
        self._pending[module] = self._pending.get(module, 0) + 1
        output.register_hook(lambda gradient: self._backward(module, x, gradient))
        return output

    def _backward(self, module: nn.Module, x: Tensor, gradient: Tensor) -> None:
        self._pending[module] -= 1
        with torch.no_grad():
            parts = layer_gradients(module)(module, x, gradient.detach())
        for attribute, name in self._layers[module].items():
            value = parts[attribute]
            if name in self._sums:
                value = value.add_(self._sums.pop(name))
            if self._pending[module]:
                self._sums[name] = value
            else:
                self._sink(self._offsets[name], value)
                self._done.add(name)

    def finish(self, parameters: dict[str, nn.Parameter]) -> None:
        """Hands on what is left: sums of calls that the output did not depend on, and zeros for unused parameters."""
        for name, parameter in parameters.items():
            if name not in self._done:
                zeros = torch.zeros(self._size, parameter.numel(), dtype=parameter.dtype, device=parameter.device)
                self._sink(self._offsets[name], self._sums.pop(name, zeros))


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No parameter asks for its own gradient meanwhile, so that the backward pass computes activations' only."""
    asked = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


BACKENDS: dict[str, type[PerSampleGradients]] = {"hooks": HookedGradients, "vmap": VmapGradients, "loop": LoopGradients}


def per_sample_gradients(
    denoiser: Denoiser, parameters: dict[str, nn.Parameter], output: ModelOutput, backend: str = "hooks"
) -> PerSampleGradients:
    """The chosen back end; `hooks` gives way to `vmap`, with a log line, where a parameter has no hook."""
    if backend == "hooks":
        uncovered = HookedGradients.covers(denoiser, parameters)
        if uncovered is not None:
            log.warning("no gradient hook covers %s: using the slower vmap back end", uncovered)
            backend = "vmap"
    return BACKENDS[backend](denoiser, parameters, output)
