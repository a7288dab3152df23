"""Evidence by position: the part of a gradient inner product that each position of the query's loss contributes.

The scalar that is differentiated is a sum over the positions p of the query's latents (or pixels),
m(q) = sum over p of m_p(q), and so is the inner product with a training item's gradient g:

    <grad m(q), g> = sum over p of <grad m_p(q), g>

The term of position p is the derivative of m_p(q) as the parameters move along g. All of them come from one
forward-mode product (`torch.func.jvp`) for each query, training item and timestep; no position needs a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from attrbench.contracts.samples import Batch, ModelOutput
from attrbench.errors import UsageError
from attrbench.gradients.per_sample import Forward, PerSampleGradients, frozen
from attrbench.gradients.samples import NoisySamples

ENTRIES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "loss": lambda predicted, target: (predicted - target).square(),
    "weighted-loss": lambda predicted, target: (predicted - target).square(),
    "squared-norm": lambda predicted, target: predicted.square(),
    "mean": lambda predicted, target: predicted,
}
"""The model outputs that are means over the entries of the prediction, as functions of (prediction, target)."""


def by_position(output: str) -> ModelOutput:
    """Return a model output, a mean over all entries, as what each position adds to it: [1, C, h, w] to [1, h, w].

    Raises:
        UsageError: for one that is no such mean.
    """
    if output not in ENTRIES:
        raise UsageError(f"output={output}: a map needs a mean over positions, one of {', '.join(ENTRIES)}")
    return lambda predicted, target: ENTRIES[output](predicted, target).sum(1) / predicted[0].numel()


def evidence(
    queries: NoisySamples, training: NoisySamples, query: int, item: int, normalize: bool
) -> NDArray[np.float64]:
    """Return what each position of a query contributes to a training item's score at each timestep, [T, h, w].

    Over timesteps and positions it sums to grad-dot's score, or with `normalize` to that of DMin without a sketch.

    Args:
        queries: noisy samples of the queries.
        training: those of the training set, of the same source.
        query: index of the query.
        item: index of the training item.
        normalize: whether the two gradients of a timestep count with unit norm.

    Raises:
        UsageError: for a model output that is no mean over positions.
    """
    gradients, positions = queries.gradients(), queries.gradients(by_position(queries.source.output))
    maps = []
    for asked, answered in zip(_batches(queries, query), _batches(training, item), strict=True):
        direction = _gradient(gradients, answered)
        change = _change(positions, asked, direction)
        scale = _norm(direction) * _norm(_gradient(gradients, asked)) if normalize else 1.0
        maps.append(change / scale if scale > 0 else np.zeros_like(change))
    return np.stack(maps)


def _batches(samples: NoisySamples, item: int) -> list[Batch]:
    """Return the noisy samples of an item, a batch of one for each timestep."""
    encoded = samples.encode(item, item + 1)
    steps = torch.arange(len(samples.timesteps))
    return [samples.batch(item, encoded, torch.zeros(1, dtype=torch.long), step[None]) for step in steps]


def _gradient(gradients: PerSampleGradients, batch: Batch) -> dict[str, Tensor]:
    """Return the gradient of a batch of one noisy sample, by parameter."""
    names = {offset: name for name, offset in gradients.offsets.items()}
    found: dict[str, Tensor] = {}

    def keep(offset: int, rows: Tensor) -> None:
        found[names[offset]] = rows[0].view_as(gradients.parameters[names[offset]]).clone()

    gradients(batch, keep)
    return found


def _norm(gradient: Mapping[str, Tensor]) -> float:
    return float(torch.stack([part.double().square().sum() for part in gradient.values()]).sum().sqrt())


class _ContiguousNorms(TorchFunctionMode):
    """A mode in which group normalization gets contiguous inputs, the only ones that its derivative can take."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.group_norm:
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))


def _change(positions: PerSampleGradients, batch: Batch, direction: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Return the derivative of each position's part of the model output along a direction, [h, w].

    Attention is computed by plain products: PyTorch's fused kernels have no forward-mode derivative.
    """
    forward = Forward(positions)

    def outputs(parameters: Mapping[str, Tensor]) -> Tensor:
        named = {f"module.{name}": value for name, value in parameters.items()}
        return torch.func.functional_call(forward, named, (batch,))[0]  # type: ignore[no-any-return]

    values = {name: parameter.detach() for name, parameter in positions.parameters.items()}
    tangents = {name: direction[name] for name in values}
    with frozen(positions.denoiser.module), sdpa_kernel(SDPBackend.MATH), _ContiguousNorms():
        change: Tensor = torch.func.jvp(outputs, (values,), (tangents,))[1]
    return change.double().cpu().numpy()
