"""Weight gradients of layers whose inputs are projected first, and the choice of the layers for which that pays.

For these layers neither the [O, I] gradient of a sample nor the product that forms it exists: the gradient is [O, k]
from the start (`attrbench.gradients.sketching.input_projection`). It takes the first O * k of the weight's places in
the concatenated gradient, whose other places stay empty.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from attrbench.gradients.layer_blocks import is_lora
from attrbench.gradients.layers import has_rule, layer_gradients, padded_input
from attrbench.gradients.sketching.input_projection import WIDTH, InputProjection

log = logging.getLogger(__name__)

INPUTS = 4 * WIDTH
"""Inputs I from which on a layer's are projected, at least k; the gradients of others would not get much smaller."""
OUTPUTS = 16
"""Outputs O from which on; the weight gradients of others cost less than the projection."""
POSITIONS = 16
"""Positions of a sample from which on; with few, gradients are of low rank, on which the projection errs most."""

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class ProjectedLayers:
    """The layers of one network whose inputs are projected before their weight gradients are formed.

    Which layers are chosen follows from the network and the shape of a sample, never from the batch or the back end.

    Args:
        projection: the random matrices; None to project nothing.
    """

    def __init__(self, projection: InputProjection | None = None) -> None:
        self._projection = projection
        self._weights: frozenset[str] | None = frozenset() if projection is None else None

    def find(self, network: nn.Module, parameters: Mapping[str, nn.Parameter], run: Callable[[], object]) -> None:
        """Choose the layers, unless that is done, by what passes through them in a forward pass of one sample.

        Args:
            network: the model.
            parameters: name -> parameter, of those that are differentiated.
            run: runs the forward pass of one sample.
        """
        if self._weights is not None:
            return
        positions = _positions(network, parameters, run)
        self._weights = frozenset(name for name, count in positions.items() if count >= POSITIONS)
        if not self._weights:
            log.warning("no layer is wide enough to project its inputs: the sketch `factored` equals `rotation` here")

    def chosen(self, weight: str | None) -> bool:
        """Return whether the inputs of the layers with this weight are projected."""
        assert self._weights is not None
        return weight in self._weights

    def gradients(self, weight: str | None, module: nn.Module, x: Tensor, g: Tensor) -> dict[str, Tensor]:
        """Return a layer's per-sample gradients, attribute -> [B, numel], [B, O * k] for a projected weight.

        Args:
            weight: name of the layer's weight; None if it is not differentiated.
            module: a layer with a gradient rule.
            x: its input, [B, ...].
            g: the gradient of its output, [B, ...].
        """
        if weight is None or not self.chosen(weight):
            return layer_gradients(module)(module, x, g)
        assert self._projection is not None
        assert isinstance(module, nn.Linear | Convolution)
        x = x.to(g.dtype)  # under autocast the layer saw its input in the output's precision
        matrix = self._projection.matrix(weight, module.weight[0].numel()).to(x)
        g = _over_positions(g).transpose(1, 2) if isinstance(module, nn.Linear) else g.flatten(2)
        return {"weight": (g @ projected_inputs(module, x, matrix)).flatten(1), "bias": g.sum(2)}

    def of_gradients(self, weight: str, parameter: nn.Parameter, gradients: Tensor) -> Tensor:
        """Return what `gradients` gives for a parameter, from whole per-sample gradients [B, numel]."""
        if not self.chosen(weight):
            return gradients
        assert self._projection is not None
        return self._projection.of_gradients(weight, len(parameter), gradients)


def projected_inputs(module: nn.Linear | Convolution, x: Tensor, matrix: Tensor) -> Tensor:
    """Return the projected inputs of a layer at each position of its output, [B, positions, k].

    Of a convolution, the input at a position is the patch that the kernel covers there, and projecting all patches is
    a convolution with k outputs. Nothing is unfolded.

    Args:
        module: the layer; a convolution of one group.
        x: its input, [B, ..., I] or [B, C, ...].
        matrix: [I, k].
    """
    if isinstance(module, nn.Linear):
        return _over_positions(x) @ matrix
    x, padding = padded_input(module, x)
    kernels = matrix.T.reshape(-1, *module.weight.shape[1:])
    rest = [0] * len(module.kernel_size)
    patches: Tensor = torch.convolution(x, kernels, None, module.stride, padding, module.dilation, False, rest, 1)
    return patches.flatten(2).transpose(1, 2)


def _over_positions(x: Tensor) -> Tensor:
    """Return the [B, ..., C] input or output of a linear layer as [B, positions, C]."""
    return x.reshape(len(x), -1, x.shape[-1])


def _positions(network: nn.Module, parameters: Mapping[str, nn.Parameter], run: Callable[[], object]) -> dict[str, int]:
    """Return weight -> number of positions at which one sample passes through its layer; 0 for an unfit layer.

    The smallest number counts where a weight is used several times.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    positions: dict[str, int] = {}

    def look(module: nn.Module, inputs: object, output: Tensor) -> None:
        name = names[id(module.weight)]
        count = output.numel() // len(parameters[name]) if _is_wide(module, name) else 0
        positions[name] = min(count, positions.get(name, count))

    layers = [module for module in network.modules() if id(getattr(module, "weight", None)) in names]
    handles = [layer.register_forward_hook(look) for layer in layers]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return positions


def _is_wide(module: nn.Module, weight: str) -> bool:
    """Return whether a layer is one whose inputs may be projected, and large enough for it."""
    if not isinstance(module, nn.Linear | Convolution) or not has_rule(module) or is_lora(weight):
        return False
    if not isinstance(module, nn.Linear) and module.groups > 1:
        return False
    return len(module.weight) >= OUTPUTS and module.weight[0].numel() >= INPUTS
