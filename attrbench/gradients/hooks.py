"""Compute per-sample gradients by module hooks in one backward pass.

The parameters are frozen, so that the backward pass computes gradients of activations only. Each layer's input is
kept in the forward pass; when the backward pass reaches the layer, every sample's weight gradient is computed from
it, passed to the sink and dropped. Peak memory is the activations plus the gradients of one layer.

Inputs are kept as autograd keeps its own tensors, so that gradient checkpointing (non-reentrant) drops and
recomputes them like any other.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attrbench.contracts.samples import Batch, GradientSink
from attrbench.errors import AttrbenchError
from attrbench.gradients.batching import ran_out_of_memory
from attrbench.gradients.layers import has_rule
from attrbench.gradients.per_sample import LoopGradients, PerSampleGradients, VmapGradients, frozen, tensor_float_32
from attrbench.gradients.projected_layers import ProjectedLayers

log = logging.getLogger(__name__)

CHECKED = 100_000_000
"""Up to this many parameter entries are compared with plain autograd; for larger models, a tenth as many."""
TOLERANCE = 1e-3
_INSTEAD = "can't be seen through by hooks: use checkpointing with use_reentrant=False"


class HookedGradients(PerSampleGradients):
    """Per-sample gradients in one backward pass, by hooks on layers with a gradient rule (attrbench.gradients.layers).

    A parameter that hooks cannot cover (a layer without a rule, a weight used without calling its module, a
    layer whose samples are not the leading dimension) falls back to `vmap`, or to one sample at a time where `vmap`
    does not fit, with a log line; all others keep their hooks. Before the first batch, one sample's gradients are
    compared with autograd's own, so that no unforeseen way of using a layer can give wrong numbers silently.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        self._layers: dict[nn.Module, dict[str, str]] = {}
        uncovered: dict[str, str] = {}
        for module in self.denoiser.module.modules():
            own = {a: names[id(p)] for a, p in module.named_parameters(recurse=False) if id(p) in names}
            if own and has_rule(module):
                self._layers[module] = own
            else:
                uncovered |= dict.fromkeys(own.values(), f"{type(module).__name__} has no gradient rule")
        self._rest: PerSampleGradients | None = None
        self._examined = False
        self._leave_to_fallback(uncovered)

    def __call__(self, batch: Batch, sink: GradientSink) -> Tensor:
        """Run a forward and a backward pass with hooks, send gradients to `sink`, and return the [B] outputs."""
        if not self._examined:
            self.find_projected(batch)
            self._leave_to_fallback(_examine(self, self._layers, batch))
            self._leave_to_fallback(self._differing(batch.sample(0)))
            self._examined = True
        outputs = self._by_hooks(batch, sink) if self._layers else None
        rest = self._rest(batch, sink) if self._rest is not None else None
        if outputs is None:
            outputs = rest if rest is not None else self.outputs(batch).detach()
        return outputs

    def _by_hooks(self, batch: Batch, sink: GradientSink) -> Tensor:
        collector = _Collector(len(batch.t), self._layers, self.offsets, self.projected, sink)
        with (
            tensor_float_32(self.precision == "tf32"),
            frozen(self.denoiser.module),
            torch.enable_grad(),
            collector.attached(),
        ):
            outputs = self.outputs(batch)
            collector.forward_is_over()
            if outputs.requires_grad:
                outputs.sum().backward()
        collector.finish(self._covered())
        return outputs.detach()

    def _covered(self) -> dict[str, nn.Parameter]:
        covered = {name for own in self._layers.values() for name in own.values()}
        return {name: parameter for name, parameter in self.parameters.items() if name in covered}

    def _differing(self, one: Batch) -> dict[str, str]:
        """Return parameter name -> reason for those whose gradient by hooks differs from autograd's on one sample."""
        chosen = _spread(self._covered(), CHECKED)
        if not chosen:
            return {}
        other = type(self)(self.denoiser, chosen, self.output, projected=self.projected)  # fp32, whatever the pass's
        other._examined = True
        by_hooks: dict[int, Tensor] = {}
        by_autograd: dict[int, Tensor] = {}
        other(one, lambda offset, rows: by_hooks.__setitem__(offset, rows[0]))
        loop = LoopGradients(self.denoiser, chosen, self.output, projected=self.projected)
        try:
            loop(one, lambda offset, rows: by_autograd.__setitem__(offset, rows[0]))
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise AttrbenchError(f"reentrant gradient checkpointing {_INSTEAD}") from None
        floor = 1e-2 * TOLERANCE * max(float(gradient.norm()) for gradient in by_autograd.values())
        reasons = {}
        for name, offset in other.offsets.items():
            difference, size = float((by_hooks[offset] - by_autograd[offset]).norm()), float(by_autograd[offset].norm())
            if difference > TOLERANCE * size + floor:
                reasons[name] = f"it differs from autograd's gradient by {difference / max(size, floor, 1e-30):.1%}"
        return reasons

    def _leave_to_fallback(self, reasons: dict[str, str]) -> None:
        """Move parameters (name -> reason) from hooks to the slower fallback (`vmap` or loop), and log why."""
        if not reasons:
            return
        for name, reason in reasons.items():
            log.warning("no gradient hook for %s: %s; this parameter takes the slower way", name, reason)
        before = {} if self._rest is None else self._rest.parameters
        left = {name: p for name, p in self.parameters.items() if name in reasons or name in before}
        self._rest = _Fallback(self.denoiser, left, self.output, self.precision, self.offsets, self.projected)
        self._layers = {m: own for m, own in self._layers.items() if not set(own.values()) & set(left)}
        known = left.keys() | self._covered().keys()
        self._leave_to_fallback(
            {name: "its layer has such a parameter" for name in self.parameters if name not in known}
        )

    def _gradient_floats(self) -> int:
        largest = max((p.numel() for p in self.parameters.values()), default=0)
        return 2 * largest + (0 if self._rest is None else self._rest.total)


def _spread(parameters: dict[str, nn.Parameter], most: int) -> dict[str, nn.Parameter]:
    """Return the parameters to check: all, or, beyond `most` entries, a seeded choice of at most a tenth of `most`."""
    if sum(parameter.numel() for parameter in parameters.values()) <= most:
        return parameters
    names = sorted(parameters)
    random.Random(0).shuffle(names)  # noqa: S311
    chosen: dict[str, nn.Parameter] = {}
    room = most // 10
    for name in names:
        if parameters[name].numel() <= room:
            chosen[name] = parameters[name]
            room -= parameters[name].numel()
    return chosen


class _Fallback(PerSampleGradients):
    """Per-sample gradients of parameters that hooks can't cover: by `vmap`, or sample by sample if that fails."""

    _loop: LoopGradients | None = None

    def __call__(self, batch: Batch, sink: GradientSink) -> Tensor:
        """Compute gradients by `vmap`, or by a loop once that failed, for `sink`; return the [B] outputs."""
        arguments = (self.denoiser, self.parameters, self.output, self.precision, self.offsets, self.projected)
        if self._loop is None:
            gradients: list[tuple[int, Tensor]] = []
            try:
                outputs = VmapGradients(*arguments)(batch, lambda offset, rows: gradients.append((offset, rows)))
            except RuntimeError as error:
                if ran_out_of_memory(error):
                    raise
                log.warning("vmap does not fit (%s): one sample at a time", str(error).strip().splitlines()[0])
                self._loop = LoopGradients(*arguments)
            else:
                for offset, rows in gradients:
                    sink(offset, rows)
                return outputs
        return self._loop(batch, sink)


def _examine(gradients: PerSampleGradients, layers: dict[nn.Module, dict[str, str]], batch: Batch) -> dict[str, str]:
    """Return parameter name -> reason for parameters that hooks can't cover, by a forward pass of two samples."""
    two = batch.select(torch.tensor([0, len(batch.t) - 1]))
    reached: set[str] = set()
    reasons: dict[str, str] = {}

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        own = layers[module].values()
        reached.update(own)
        if not inputs or not isinstance(inputs[0], Tensor):
            reasons.update(dict.fromkeys(own, f"{type(module).__name__} is called without a positional input"))
        elif inputs[0].dim() == 0 or len(inputs[0]) != 2:
            rows = len(inputs[0]) if inputs[0].dim() else 0
            reasons.update(dict.fromkeys(own, f"{type(module).__name__} sees {rows} rows for two samples"))

    handles = [module.register_forward_pre_hook(look) for module in layers]
    try:
        with torch.no_grad():
            gradients.outputs(two)
    finally:
        for handle in handles:
            handle.remove()
    covered = {name for own in layers.values() for name in own.values()}
    silent = {name: p for name, p in gradients.parameters.items() if name in covered and name not in reached}
    used = _used(lambda: gradients.outputs(two).sum(), silent)
    return reasons | dict.fromkeys(used, "it is used without calling its module")


def _used(output: Callable[[], Tensor], parameters: dict[str, nn.Parameter]) -> list[str]:
    """Return the names of those `parameters` that the output depends on."""
    if not parameters:
        return []
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            total = output()
        if not total.requires_grad:
            return []
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
    return [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


class _Keep(torch.autograd.Function):
    """An autograd node that only saves a tensor, so that gradient checkpointing can drop and recompute it."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return anchor.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


_keep: Callable[[Tensor, Tensor], Tensor] = _Keep.apply


def tapped(output: Tensor) -> Tensor:
    """Return a layer's output as a tensor on which a gradient hook can be registered, though parameters are frozen."""
    if not output.requires_grad:  # nothing before this layer asks for a gradient; the chain starts here
        output = output.detach().requires_grad_()
    if output.is_leaf or output._is_view():  # what comes next may work in place, which neither would survive
        output = output.clone()
    return output


class _Collector:
    """A collector of each layer's input in the forward pass, and of its per-sample gradients in the backward pass.

    The gradients of a parameter that is used several times in one forward pass (a module called twice, a weight that
    two modules share) are summed before they go to the sink.
    """

    def __init__(
        self,
        size: int,
        layers: dict[nn.Module, dict[str, str]],
        offsets: dict[str, int],
        projected: ProjectedLayers,
        sink: GradientSink,
    ) -> None:
        self._size = size
        self._layers = layers
        self._offsets = offsets
        self._projected = projected
        self._sink = sink
        self._anchor = torch.zeros((), requires_grad=True)
        self._counting = True
        self._pending: Counter[str] = Counter()
        self._sums: dict[str, Tensor] = {}
        self._done: set[str] = set()
        self._without_graph: set[str] = set()

    @contextmanager
    def attached(self) -> Iterator[None]:
        handles = [module.register_forward_hook(self._forward) for module in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def forward_is_over(self) -> None:
        """Mark the forward pass as done: later layer calls are recomputations by gradient checkpointing."""
        self._counting = False

    def _forward(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        names = self._layers[module].values()
        if not torch.is_grad_enabled():
            self._without_graph.update(names)
            return output
        x = inputs[0].detach()
        if len(x) != self._size:
            raise AttrbenchError(
                f"{type(module).__name__} of {next(iter(names))} sees {len(x)} rows for a batch of {self._size}:"
                " its samples can't be told apart; run with --backend vmap"
            )
        output = tapped(output)
        if self._counting:
            self._pending.update(names)
        kept = [_keep(self._anchor, x).grad_fn]
        output.register_hook(lambda gradient: self._backward(module, kept, gradient))
        return output

    def _backward(self, module: nn.Module, kept: list[Any], gradient: Tensor) -> None:
        (x,) = kept.pop().saved_tensors
        own = self._layers[module]
        with torch.no_grad():
            parts = self._projected.gradients(own.get("weight"), module, x, gradient.detach())
        for attribute, name in own.items():
            value = parts[attribute]
            self._pending[name] -= 1
            if name in self._sums:
                value = self._sums.pop(name).add_(value)
            if self._pending[name] > 0:
                self._sums[name] = value
                continue
            if name in self._done:
                raise AttrbenchError(
                    f"the gradients of {name} came in parts: reentrant gradient checkpointing {_INSTEAD}"
                )
            self._sink(self._offsets[name], value)
            self._done.add(name)

    def finish(self, parameters: dict[str, nn.Parameter]) -> None:
        """Send the remaining gradients to the sink: incomplete sums, and zeros for unused parameters."""
        lost = self._without_graph - self._done
        if lost:
            raise AttrbenchError(
                f"{min(lost)} is used where no gradient flows: torch.no_grad and reentrant checkpointing {_INSTEAD}"
            )
        for name, parameter in parameters.items():
            if name not in self._done:
                zeros = torch.zeros(self._size, parameter.numel(), dtype=parameter.dtype, device=parameter.device)
                self._sink(self._offsets[name], self._sums.pop(name, zeros))
