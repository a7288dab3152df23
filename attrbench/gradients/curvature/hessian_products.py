"""Compute products of the Hessian or Gauss-Newton matrix with vectors, without forming the matrix.

Sources: Pearlmutter 1994; Schraudolph 2002.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from attrbench.contracts.samples import Batch, Samples
from attrbench.errors import UsageError
from attrbench.gradients.per_sample import asking

Product = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Curvature:
    """Products H v for the mean loss of a batch, with H the Hessian or the Gauss-Newton matrix J^T (2/d) J.

    J = de/dtheta is the Jacobian of the prediction e with d entries. Products take reverse mode twice, which every
    layer supports; the forward pass and the first backward pass serve all vectors.

    Args:
        samples: model, parameters and model output, which must be the loss.
        kind: `hessian`, or `ggn` for the Gauss-Newton matrix.
    """

    def __init__(self, samples: Samples, kind: Literal["hessian", "ggn"]) -> None:
        if samples.source.output != "loss":
            raise UsageError(f"curvature is that of the loss, not of {samples.source.output}")
        self._kind = kind
        self._denoiser = samples.denoiser
        self._parameters = list(samples.parameters.values())

    def __call__(self, vectors: Tensor, batch: Batch) -> Tensor:
        """Return the products H v of `vectors` ([m, p]), H the curvature of a batch's mean loss, as [m, p]."""
        sizes = [parameter.numel() for parameter in self._parameters]
        with torch.enable_grad(), asking(self._parameters), plain_attention():
            predicted = self._denoiser.predict(batch.noisy, batch.t, batch.conditioning)
            product = self._hessian(predicted, batch) if self._kind == "hessian" else self._gauss_newton(predicted)
            rows = []
            for vector in vectors:
                parts = zip(vector.split(sizes), self._parameters, strict=True)
                parts_of_product = product([part.view_as(parameter) for part, parameter in parts])
                rows.append(torch.cat([part.detach().flatten() for part in parts_of_product]))
        return torch.stack(rows)

    def _hessian(self, predicted: Tensor, batch: Batch) -> Product:
        loss = (predicted - batch.target).square().mean()
        gradients = _gradients([loss], self._parameters, create_graph=True)
        return lambda vector: _gradients(gradients, self._parameters, vector)

    def _gauss_newton(self, predicted: Tensor) -> Product:
        """Return a function for Gauss-Newton products; J v is the gradient of <J^T u, v> to u, taken at any u."""
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
    """Return the gradients of sum <factor, output> to `inputs`, zero where outputs don't depend; keeps the graph."""
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
    """Return a context in which attention uses plain matrix products: fused kernels can't be differentiated twice."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel  # since torch 2.3
    except ImportError:
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)
