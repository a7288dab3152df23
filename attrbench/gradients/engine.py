"""How gradients are computed. None of it changes a result by more than rounding, and none is part of a fingerprint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Engine:
    """The choices of a gradient pass.

    Attributes:
        backend: `hooks`, `vmap` or `loop` (attrbench.gradients.backends).
        batch_size: pairs of item and timestep a backward pass; None finds it (attrbench.gradients.batching).
    """

    backend: str = "hooks"
    batch_size: int | None = None
