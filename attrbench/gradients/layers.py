"""Compute per-sample parameter gradients of one layer from its input and the gradient of its output.

Each rule takes (module, input, output gradient), the tensors with leading dimension B, and returns parameter name ->
[B, numel] gradients. A new kind of layer is a new rule. LoRA's A and B are Linear or Conv2d modules like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LayerGradients = Callable[[Any, Tensor, Tensor], dict[str, Tensor]]


def _linear(module: nn.Linear, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Return the per-sample gradients of a linear layer: dW_b = sum over positions of g x^T."""
    x = x.to(g.dtype)  # under autocast the layer saw its input in the output's precision
    if x.dim() == 2:
        weight = g.unsqueeze(2) * x.unsqueeze(1)
        return {"weight": weight.flatten(1), "bias": g.clone()}
    x, g = x.flatten(1, -2), g.flatten(1, -2)
    return {"weight": (g.transpose(1, 2) @ x).flatten(1), "bias": g.sum(1)}


def _convolution(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Return the per-sample gradients of a convolution, by one grouped convolution in which each sample is a group.

    Several times faster than products with unfolded inputs, whose copies cost more than the arithmetic.
    """
    size = len(x)
    x, padding = padded_input(module, x.to(g.dtype))
    weight = torch.ops.aten.convolution_backward(
        g.reshape(1, -1, *g.shape[2:]),
        x.reshape(1, -1, *x.shape[2:]),
        g.new_empty(size * module.out_channels, *module.weight.shape[1:]),
        None,
        module.stride,
        padding,
        module.dilation,
        False,
        [0] * len(module.kernel_size),
        size * module.groups,
        [False, True, False],
    )[1]
    return {"weight": weight.reshape(size, -1), "bias": g.flatten(2).sum(2)}


def padded_input(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return a convolution's input, and the padding with zeros that it still needs on both sides of each dimension."""
    padding = module.padding
    if module.padding_mode == "zeros" and not isinstance(padding, str):
        return x, padding
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(x, module._reversed_padding_repeated_twice, mode), (0,) * len(module.kernel_size)


def _group_norm(module: nn.GroupNorm, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    normalized = F.group_norm(x, module.num_groups, eps=module.eps)
    channels = g.shape[:2]
    return {"weight": (g * normalized).reshape(*channels, -1).sum(2), "bias": g.reshape(*channels, -1).sum(2)}


def _layer_norm(module: nn.LayerNorm, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    return _over_positions(g * F.layer_norm(x, module.normalized_shape, eps=module.eps), g, module.weight.dim())


def _rms_norm(module: Any, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Return the per-sample gradients of an RMSNorm: torch's (eps may be None) or diffusers' (may have a bias)."""
    wide = x.double() if x.dtype == torch.float64 and isinstance(module, TORCH_RMS_NORM) else x.float()
    eps = torch.finfo(x.dtype).eps if module.eps is None else module.eps
    inner = tuple(range(-module.weight.dim(), 0))
    normalized = x * torch.rsqrt(wide.square().mean(inner, keepdim=True) + eps).to(x.dtype)
    return _over_positions(g * normalized, g, module.weight.dim())


def _over_positions(weight: Tensor, bias: Tensor, inner: int) -> dict[str, Tensor]:
    """Return a norm's per-sample gradients, summed over dimensions between batch and `inner` normalized ones."""
    leading = tuple(range(1, weight.dim() - inner))
    if leading:
        weight, bias = weight.sum(leading), bias.sum(leading)
    return {"weight": weight.flatten(1), "bias": bias.flatten(1).clone()}


def _embedding(module: nn.Embedding, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Return the per-sample gradients of an embedding: each position's gradient added to the row that it looked up."""
    size, rows = len(x), module.num_embeddings
    places = (x.reshape(size, -1) + rows * torch.arange(size, device=x.device)[:, None]).flatten()
    g = g.reshape(len(places), -1)
    if module.padding_idx is not None:
        g = g * (x.flatten() != module.padding_idx)[:, None]
    weight = g.new_zeros(size * rows, module.embedding_dim).index_add_(0, places, g)
    return {"weight": weight.reshape(size, -1)}


TORCH_RMS_NORM: type[nn.Module] = getattr(nn, "RMSNorm", nn.LayerNorm)  # since torch 2.4

_RULES: dict[type[nn.Module], LayerGradients] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
}


def layer_gradients(module: nn.Module) -> LayerGradients:
    """Return the function that computes a layer's per-sample gradients, for a module that `has_rule` accepts."""
    if _is_rms_norm(module):
        return _rms_norm
    return next(rule for kind, rule in _RULES.items() if isinstance(module, kind))


def has_rule(module: nn.Module) -> bool:
    """Return whether per-sample gradients of a module can be computed from its input and output gradient.

    A subclass that computes something else than the layer it derives from has none, nor has a layer whose weight is
    made of other parameters (pruned, weight-normalized).
    """
    if not {name for name, _ in module.named_parameters(recurse=False)} <= {"weight", "bias"}:
        return False
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
        return False
    kind = next((kind for kind in _RULES if isinstance(module, kind)), None)
    return _is_rms_norm(module) or (kind is not None and type(module).forward is kind.forward)


def _is_rms_norm(module: nn.Module) -> bool:
    """Return whether a module is an RMSNorm, by class name: torch, diffusers and transformers each have their own."""
    return type(module).__name__ == "RMSNorm" and hasattr(module, "eps") and isinstance(module.weight, Tensor)
