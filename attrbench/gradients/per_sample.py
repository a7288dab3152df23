"""Compute per-sample gradients of a batch of noisy samples: the contract, and two reference implementations.

`attrbench.gradients.hooks` does it in one backward pass. The references here, `VmapGradients` and `LoopGradients`,
give equal numbers more slowly, for any module.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.samples import Batch, GradientSink, ModelOutput
from attrbench.gradients.projected_layers import ProjectedLayers

log = logging.getLogger(__name__)

Precision = Literal["fp32", "tf32", "bf16"]


@dataclass(eq=False)
class PerSampleGradients(ABC):
    """Base class of the back ends that compute each sample's gradient of the model output to the parameters.

    Attributes:
        denoiser: the model.
        parameters: name -> parameter, in the order of the concatenated gradient.
        output: the scalar that is differentiated.
        precision: `fp32`, the reference; `tf32`, products in TensorFloat-32 on devices that have it; `bf16`, the
            forward pass under bfloat16 autocast.
        offsets: parameter name -> offset in the concatenated gradient; to be given if `parameters` are only part of it.
        projected: the layers whose inputs are projected before their weight gradients are formed; by default none.
        total: number of entries of the parameters, p.
    """

    denoiser: Denoiser
    parameters: dict[str, nn.Parameter]
    output: ModelOutput
    precision: Precision = "fp32"
    offsets: dict[str, int] = field(default_factory=dict)
    projected: ProjectedLayers = field(default_factory=ProjectedLayers)
    total: int = field(init=False)

    def __post_init__(self) -> None:
        ends = list(accumulate((parameter.numel() for parameter in self.parameters.values()), initial=0))
        self.total = ends[-1]
        self.offsets = self.offsets or dict(zip(self.parameters, ends, strict=False))

    @abstractmethod
    def __call__(self, batch: Batch, sink: GradientSink) -> Tensor:
        """Run a forward and a backward pass, pass every parameter's gradients to `sink`, and return the [B] outputs."""

    def outputs(self, batch: Batch) -> Tensor:
        """Return the [B] scalar model outputs of a batch, such as losses, which are differentiated."""
        device = self.denoiser.device.type
        with torch.autocast(device, torch.bfloat16) if self.precision == "bf16" else nullcontext():
            predicted = self.denoiser.predict(batch.noisy, batch.t, batch.conditioning)
        values = self.output(predicted.to(batch.target.dtype), batch.target)
        return values if batch.weight is None else values * batch.weight

    def find_projected(self, batch: Batch) -> None:
        """Choose the layers whose inputs are projected, if that is asked for, at the first batch."""
        self.projected.find(self.denoiser.module, self.parameters, lambda: self.outputs(batch.sample(0)))

    def send(self, sink: GradientSink, name: str, gradients: Tensor) -> None:
        """Send a parameter's whole gradients, [B, numel], to a sink, projected if its layer's inputs are."""
        sink(self.offsets[name], self.projected.of_gradients(name, self.parameters[name], gradients))

    def bytes_per_sample(self, batch: Batch) -> int:
        """Return a rough estimate of the bytes of memory that one more sample in a batch takes."""
        width = 4
        activations = 0

        def count(module: nn.Module, inputs: object, output: object) -> None:
            nonlocal activations
            if isinstance(output, Tensor):
                activations += output.numel()

        leaves = [module for module in self.denoiser.module.modules() if not any(module.children())]
        handles = [module.register_forward_hook(count) for module in leaves]
        try:
            with torch.no_grad():
                self.outputs(batch.sample(0))
        finally:
            for handle in handles:
                handle.remove()
        return width * (3 * activations + self._gradient_floats())

    def _gradient_floats(self) -> int:
        """Return how many gradient entries one sample holds at once, for the estimate of memory."""
        return self.total


@contextmanager
def tensor_float_32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TensorFloat-32 in CUDA's float32 products inside the `with` block, then restore the setting."""
    backends: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = allowed
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


class LoopGradients(PerSampleGradients):
    """Per-sample gradients by plain autograd, one sample at a time: the reference for the other back ends."""

    def __call__(self, batch: Batch, sink: GradientSink) -> Tensor:
        """Run a backward pass for each sample, send the stacked gradients to `sink`, and return the [B] outputs."""
        self.find_projected(batch)
        rows, values = [], []
        for b in range(len(batch.t)):
            sample = batch.sample(b)
            with tensor_float_32(self.precision == "tf32"), torch.enable_grad(), asking(self.parameters.values()):
                value = self.outputs(sample)
                gradients = torch.autograd.grad(
                    value.sum(),
                    list(self.parameters.values()),
                    allow_unused=True,
                    materialize_grads=True,
                )
            values.append(value.detach())
            dense = (gradient.to_dense() if gradient.is_sparse else gradient for gradient in gradients)
            rows.append([gradient.flatten() for gradient in dense])
        for index, name in enumerate(self.parameters):
            self.send(sink, name, torch.stack([row[index] for row in rows]))
        return torch.cat(values)


@contextmanager
def asking(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Set `requires_grad` of these parameters inside the `with` block, and restore it afterwards."""
    silent = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in silent:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in silent:
            parameter.requires_grad_(False)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Clear `requires_grad` of all parameters inside the `with` block, so that only activations get gradients."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


class VmapGradients(PerSampleGradients):
    """Per-sample gradients by `torch.func.vmap(grad)`: for modules without batch norm; holds B whole gradients."""

    def __call__(self, batch: Batch, sink: GradientSink) -> Tensor:
        """Compute all samples' gradients at once by `vmap`, send them to `sink`, and return the [B] outputs."""
        self.find_projected(batch)
        values = {name: parameter.detach() for name, parameter in self.parameters.items()}
        forward = Forward(self)

        def one(parameters: dict[str, Tensor], samples: dict[str, Tensor], conditioning: dict[str, Tensor]) -> Tensor:
            sample = Batch(
                **{name: value[None] for name, value in samples.items()},
                conditioning={name: value[None] for name, value in conditioning.items()},
            )
            named = {f"module.{name}": value for name, value in parameters.items()}
            output: Tensor = torch.func.functional_call(forward, named, (sample,))
            return output[0]

        samples = {"noisy": batch.noisy, "target": batch.target, "t": batch.t}
        if batch.weight is not None:
            samples["weight"] = batch.weight
        with tensor_float_32(self.precision == "tf32"), frozen(self.denoiser.module):
            gradients, outputs = torch.func.vmap(torch.func.grad_and_value(one), in_dims=(None, 0, 0))(
                values, samples, dict(batch.conditioning)
            )
        for name, gradient in gradients.items():
            self.send(sink, name, gradient.flatten(1))
        values_of_samples: Tensor = outputs.detach()
        return values_of_samples


class Forward(nn.Module):
    """A module that contains the denoiser's network, so that `functional_call` can replace its parameters."""

    def __init__(self, gradients: PerSampleGradients) -> None:
        super().__init__()
        self.module = gradients.denoiser.module
        self._gradients = gradients

    def forward(self, batch: Batch) -> Tensor:
        """Return the model outputs of a batch, by the network with its parameters of the moment."""
        return self._gradients.outputs(batch)
