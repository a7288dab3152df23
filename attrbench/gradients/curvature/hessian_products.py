"""Products of a network's own curvature with vectors, no matrix formed (Pearlmutter 1994; Schraudolph 2002)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from attrbench.errors import UsageError
from attrbench.gradients.per_sample import Batch, asking
from attrbench.gradients.samples import NoisySamples

Product = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Curvature:
    """H v for the mean loss of a batch: its Hessian, or the Gauss-Newton matrix J^T (2/d) J, J = de/dtheta.

    By reverse mode twice, which every layer knows; the forward pass and the first way back serve all vectors.

    Args:
        pairs: model, parameters and output, which must be the loss.
        kind: which matrix.
    """

    def __init__(self, pairs: NoisySamples, kind: Literal["hessian", "ggn"]) -> None:
        if pairs.source.output != "loss":
            raise UsageError(f"curvature is that of the loss, not of {pairs.source.output}")
        self._kind = kind
        self._denoiser = pairs.denoiser
        self._parameters = list(pairs.parameters.values())

    def __call__(self, vectors: Tensor, batch: Batch) -> Tensor:
        """[m, p] products with `vectors` ([m, p]), for the mean over the pairs of the batch."""
        sizes = [parameter.numel() for parameter in self._parameters]
        with torch.enable_grad(), asking(self._parameters), plain_attention():
            predicted = self._denoiser.predict(batch.noisy, batch.t, batch.conditioning)
            product = self._hessian(predicted, batch) if self._kind == "hessian" else self._gauss_newton(predicted)
            rows = []
            for vector in vectors:
                parts = zip(vector.split(sizes), self._parameters, strict=True)
                found = product([part.view_as(parameter) for part, parameter in parts])
                rows.append(torch.cat([part.detach().flatten() for part in found]))
        return torch.stack(rows)

    def _hessian(self, predicted: Tensor, batch: Batch) -> Product:
        loss = (predicted - batch.target).square().mean()
        gradients = _gradients([loss], self._parameters, create_graph=True)
        return lambda vector: _gradients(gradients, self._parameters, vector)

    def _gauss_newton(self, predicted: Tensor) -> Product:
        """J v is the gradient of <J^T u, v> to u, whatever u."""
        anywhere = torch.zeros_like(predicted, requires_grad=True)
        gradients = _gradients([predicted], self._parameters, [anywhere], create_graph=True)
        factor = 2 / predicted.numel()  # the loss is a mean over d, the batch's a mean over B

        def product(vector: Sequence[Tensor]) -> Sequence[Tensor]:
            (moved,) = _gradients(gradients, [anywhere], vector)
            return _gradients([predicted], self._parameters, [factor * moved])

        return product


def _gradients(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    factors: Sequence[Tensor] | None = None,
    create_graph: bool = False,
) -> Sequence[Tensor]:
    """Gradients of sum <factor, output>, zeros where nothing depends; the graph stays for the next vector."""
    outputs = list(outputs)
    factors = [torch.ones_like(output) for output in outputs] if factors is None else list(factors)
    tied = [(output, factor) for output, factor in zip(outputs, factors, strict=True) if output.requires_grad]
    if not tied:
        return [torch.zeros_like(each) for each in inputs]
    return torch.autograd.grad(
        [output for output, _ in tied],
        list(inputs),
        [factor for _, factor in tied],
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )


def plain_attention() -> Any:
    """Attention by matrix products meanwhile: the fused kernels can't be differentiated twice."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel  # since torch 2.3
    except ImportError:
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)
