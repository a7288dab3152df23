"""LiSSA with products of the network's own curvature (methods-spec 11.4)."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import torch

from attrbench.contracts.method import Context
from attrbench.contracts.method_results import Transformed
from attrbench.errors import AttrbenchError
from attrbench.gradients.curvature.hessian_products import Curvature
from attrbench.models.noise import seed_of
from attrbench_methods.second_order.lissa import DIVERGED, diverged

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from attrbench_methods.second_order.lissa import LiSSAOptions

POWER_STEPS = 20
PROBES = 8
PAIRS = 64
"""Pairs of item and timestep a step, unless options say otherwise."""
SAMPLE = 256
"""Pairs on which eigenvalue, trace and residual are estimated."""
LOOK = 10
"""Steps between looks at the residual."""


def solve(gradients: Tensor, options: LiSSAOptions, context: Context) -> Transformed:
    """U = (H + lam I)^-1 g for each query, [1, m, p]; batches are drawn from the training pairs, the same for all.

    Step and damping follow from H's largest eigenvalue and mean diagonal on a sample of pairs, the first by power
    iteration, the second by Hutchinson's estimate; the residual is measured on that sample too.

    Raises:
        AttrbenchError: where the iteration diverges.
    """
    started = time.perf_counter()
    pairs = context.training(options.source())
    draws = torch.Generator().manual_seed(seed_of("lissa", context.seed))
    assert options.hessian != "fisher"
    curvature = Curvature(pairs, options.hessian)
    sample = pairs.drawn(SAMPLE, draws)

    def apply(vectors: Tensor) -> Tensor:
        return curvature(vectors, sample)

    asked = gradients[0]
    size = options.batch or PAIRS
    first = pairs.drawn(size, draws)
    top = max(  # a small batch may have a larger one
        top_eigenvalue(apply, asked.shape[1], asked, draws),
        top_eigenvalue(lambda vectors: curvature(vectors, first), asked.shape[1], asked, draws),
    )
    damping = options.damping
    if options.damping_mode == "relative":
        diagonal = mean_diagonal(apply, asked.shape[1], asked, draws)
        if diagonal <= 0:
            raise AttrbenchError(
                f"the mean diagonal of the Hessian is {diagonal:.1e}, so that no relative damping makes sense: give"
                " damping_mode=absolute, or hessian=ggn"
            )
        damping *= diagonal
    step = options.step or 1 / (top + damping)
    prepared = time.perf_counter() - started
    u, residuals, taken = _iterate(
        asked, options, step, damping, apply, lambda vectors: curvature(vectors, pairs.drawn(size, draws))
    )
    products = (u * apply(u)).sum(dim=1)
    facts = {
        "top_eigenvalue": top,
        "damping": damping,
        "step": step,
        "iterations": float(taken),
        "residual": float(residuals.max()),
        "queries_with_negative_curvature": float((products < 0).sum()),
    }
    return Transformed(u[None], facts, state_seconds=prepared)


def _iterate(
    asked: Tensor,
    options: LiSSAOptions,
    step: float,
    damping: float,
    apply: Callable[[Tensor], Tensor],
    apply_drawn: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, int]:
    """Runs the recursion, each query until its own residual is small enough, whatever the others need.

    Args:
        asked: [m, p] gradients g.
        options: how long at most, and the tolerance.
        step: eta.
        damping: lam.
        apply: H of the sample, by which residuals are measured.
        apply_drawn: H of a batch, drawn anew at each call.

    Returns:
        [m, p] solutions, [m] relative residuals, and the number of steps that the slowest query took.
    """
    norms = asked.norm(dim=1).clamp_min(1e-30)
    u = step * asked
    residuals, taken = torch.full_like(norms, math.inf), 0
    going = torch.ones_like(norms, dtype=torch.bool)
    for taken in range(1, options.iterations + 1):
        if taken > 1:
            v = u[going]
            u[going] = v + step * (asked[going] - apply_drawn(v) - damping * v)
        if taken % LOOK == 0 or taken == options.iterations:
            v = u[going]
            residuals[going] = (asked[going] - apply(v) - damping * v).norm(dim=1) / norms[going]
            largest = float(residuals.max())
            if not largest < DIVERGED:
                raise diverged(step, largest, taken)
            going = residuals > options.tolerance
            if not going.any():
                break
    return u, residuals, taken


def top_eigenvalue(
    apply: Callable[[Tensor], Tensor], size: int, like: Tensor, draws: torch.Generator, steps: int = POWER_STEPS
) -> float:
    """The largest eigenvalue by modulus, by power iteration from a seeded vector."""
    vector = torch.randn(1, size, generator=draws).to(like)
    value = 0.0
    for _ in range(steps):
        vector = vector / vector.norm().clamp_min(1e-30)
        product = apply(vector)
        value = float(product.norm())
        vector = product
    return value


def mean_diagonal(
    apply: Callable[[Tensor], Tensor], size: int, like: Tensor, draws: torch.Generator, probes: int = PROBES
) -> float:
    """trace(H) / p, by products with seeded sign vectors (Hutchinson 1990)."""
    signs = (torch.randint(0, 2, (probes, size), generator=draws) * 2 - 1).to(like)
    return float((signs * apply(signs)).sum(dim=1).mean()) / size
