"""What both sides should say: each score from an explicit matrix and an explicit solve, in float64.

Nothing here comes from attrbench or a peer. Gradients are rows [n, p], scores are [m, n], larger for proponents.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]


def gradients(module: nn.Module, noisy: Tensor, target: Tensor, output: str = "loss") -> Array:
    """[n, p] gradients of the loss, or of the output's mean square, by plain autograd item by item."""
    double = copy.deepcopy(module).double()
    parameters = list(double.parameters())
    found = []
    for x, y in zip(noisy.double(), target.double(), strict=True):
        predicted = double(x[None])[0]
        value = (predicted - y if output == "loss" else predicted).square().mean()
        found.append(torch.cat([part.flatten() for part in torch.autograd.grad(value, parameters)]))
    return torch.stack(found).numpy()


def damped(query: Array, train: Array, curvature: Array, lam: float) -> Array:
    """Query (curvature + lam I)^-1 train^T."""
    return query @ np.linalg.solve(curvature + lam * np.eye(len(curvature)), train.T)


def ridge(query: Array, train: Array, lam: float) -> Array:
    """TRAK's kernel: the curvature is the sum of the training features' outer products."""
    return damped(query, train, train.T @ train, lam)


def datainf(query: Array, train: Array, blocks: Mapping[str, slice], lam: Mapping[str, float]) -> Array:
    """Mean over items of (g_i g_i^T + lam I)^-1, each inverted as it stands, block by block."""
    scores = np.zeros((len(query), len(train)))
    for name, columns in blocks.items():
        q, g = query[:, columns], train[:, columns]
        inverse = sum(np.linalg.inv(np.outer(row, row) + lam[name] * np.eye(g.shape[1])) for row in g) / len(g)
        scores += q @ inverse @ g.T
    return scores


def per_block(query: Array, train: Array, curvature: Mapping[str, Array], blocks, lam: Mapping[str, float]) -> Array:
    """Damped solves of each block with a curvature and a damping of its own."""
    parts = (damped(query[:, s], train[:, s], curvature[name], lam[name]) for name, s in blocks.items())
    return sum(parts, start=np.zeros((len(query), len(train))))


def fisher(train: Array) -> Array:
    """Mean outer product of the gradients: the empirical Fisher matrix."""
    return train.T @ train / len(train)


def hessian(module: nn.Module, noisy: Tensor, target: Tensor) -> Array:
    """[p, p] Hessian of the mean loss, by autograd in float64."""
    double = copy.deepcopy(module).double()
    names = {name: value.detach() for name, value in double.named_parameters()}
    sizes = [value.numel() for value in names.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split(sizes)
        values = {name: part.reshape(names[name].shape) for name, part in zip(names, parts, strict=True)}
        predicted = torch.func.functional_call(double, values, (noisy.double(),))
        return (predicted - target.double()).square().mean()

    return torch.func.hessian(loss)(torch.cat([value.flatten() for value in names.values()])).numpy()


@dataclass(frozen=True)
class Layer:
    """What EK-FAC knows of a layer.

    Attributes:
        inputs: [n, R, i] its inputs at R positions, a one appended where it has a bias.
        signals: [n, R, o] the gradients of the items' losses to its output.
        bias: whether it has one.
    """

    inputs: Array
    signals: Array
    bias: bool

    @property
    def gradients(self) -> Array:
        """[n, o, i] gradients of the weight, the bias as last column."""
        return np.einsum("nro,nri->noi", self.signals, self.inputs)

    def flat(self, matrices: Array) -> Array:
        """[..., o, i] to [..., p] in the order of the module's parameters, weight before bias."""
        if not self.bias:
            return matrices.reshape(*matrices.shape[:-2], -1)
        weight = matrices[..., :-1].reshape(*matrices.shape[:-2], -1)
        return np.concatenate([weight, matrices[..., -1]], axis=-1)

    def covariances(self) -> tuple[Array, Array]:
        """A and S, means over items and positions."""
        a, s = (x.reshape(-1, x.shape[-1]) for x in (self.inputs, self.signals))
        return a.T @ a / len(a), s.T @ s / len(s)

    def ekfac(self, others: Layer | None = None) -> tuple[Array, float]:
        """The [p, p] EK-FAC matrix, and the mean of its eigenvalues, which may be measured on other items."""
        (_, q_a), (_, q_s) = (np.linalg.eigh(matrix) for matrix in self.covariances())
        values = np.square(q_s.T @ (others or self).gradients @ q_a).mean(0)
        return self._matrix(q_s, q_a, values), values.mean()

    def kfac(self) -> tuple[Array, float]:
        """The [p, p] K-FAC matrix, R A x S since a gradient sums over positions, and the mean of its eigenvalues."""
        (a, q_a), (s, q_s) = (np.linalg.eigh(matrix) for matrix in self.covariances())
        values = self.inputs.shape[1] * np.outer(s, a)
        return self._matrix(q_s, q_a, values), values.mean()

    def _matrix(self, q_s: Array, q_a: Array, values: Array) -> Array:
        basis = self.flat(np.einsum("oj,ik->jkoi", q_s, q_a))
        vectors = basis.reshape(-1, basis.shape[-1])  # one eigenvector a row
        return vectors.T @ (values.reshape(-1, 1) * vectors)


def layers(module: nn.Module, noisy: Tensor, target: Tensor, sampled: bool = False) -> dict[str, Layer]:
    """Inputs and signals of every Linear and Conv2d, by forward hooks on a float64 copy; one loss an item.

    Sampled: `target` is the gradient to the network's output, whatever the loss.
    """
    double = copy.deepcopy(module).double()
    seen: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}

    def hook(name: str):
        def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            output.retain_grad()
            seen[name] = (layer, inputs[0].detach(), output)

        return keep

    for name, layer in double.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(hook(name))
    predicted, other = double(noisy.double()), target.double()
    values = predicted * other if sampled else (predicted - other).square() / other[0].numel()
    values.sum().backward()
    return {name: _layer(*parts) for name, parts in seen.items()}


def _layer(layer: nn.Module, x: Tensor, output: Tensor) -> Layer:
    signal = output.grad
    if isinstance(layer, nn.Conv2d):
        x = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2)
        signal = signal.flatten(2).transpose(1, 2)
    x, signal = x.reshape(len(x), -1, x.shape[-1]), signal.reshape(len(x), -1, signal.shape[-1])
    if layer.bias is not None:
        x = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
    return Layer(x.numpy(), signal.numpy(), layer.bias is not None)
