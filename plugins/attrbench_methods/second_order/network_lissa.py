"""LiSSA with exact Hessian or Gauss-Newton products of the network, over random pairs of item and timestep."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from attrbench.contracts.method import Context
from attrbench.contracts.method_results import Transformed
from attrbench.errors import AttrbenchError
from attrbench.gradients.curvature.hessian_products import Curvature
from attrbench.models.noise import seed_of
from attrbench_methods.second_order.lissa_options import LiSSAOptions
from attrbench_methods.second_order.richardson import DIVERGED, diverged

POWER_STEPS = 20
PROBES = 8
PAIRS = 64
"""Number of pairs of item and timestep in a step's batch, unless the options give one."""
SAMPLE = 256
"""Number of pairs on which eigenvalue, trace and residual are estimated."""
LOOK = 10
"""Number of steps between measurements of the residual."""


def solve(queries: Tensor, options: LiSSAOptions, context: Context) -> Transformed:
    """Return the [1, m, p] queries' gradients multiplied with the damped inverse curvature, by LiSSA's iteration.

    U = (H + lam I)^-1 g for each query. Batches are drawn from the training pairs, the same for all queries.
    Step and damping follow from H's largest eigenvalue and mean diagonal on a sample of pairs, the first by power
    iteration, the second by Hutchinson's estimate; the residual is measured on that sample too.

    Raises:
        AttrbenchError: where the iteration diverges.
    """
    started = time.perf_counter()
    samples = context.training(options.source())
    draws = torch.Generator().manual_seed(seed_of("lissa", context.seed))
    assert options.hessian != "fisher"
    curvature = Curvature(samples, options.hessian)
    sample = samples.drawn(SAMPLE, draws)

    def apply(vectors: Tensor) -> Tensor:
        return curvature(vectors, sample)

    gradients = queries[0]
    size = options.batch or PAIRS
    first = samples.drawn(size, draws)
    top = max(  # a small batch may have a larger one
        top_eigenvalue(apply, gradients.shape[1], gradients, draws),
        top_eigenvalue(lambda vectors: curvature(vectors, first), gradients.shape[1], gradients, draws),
    )
    damping = options.damping
    if options.damping_mode == "relative":
        diagonal = mean_diagonal(apply, gradients.shape[1], gradients, draws)
        if diagonal <= 0:
            raise AttrbenchError(
                f"the mean diagonal of the Hessian is {diagonal:.1e}, so that no relative damping makes sense: give"
                " damping_mode=absolute, or hessian=ggn"
            )
        damping *= diagonal
    step = options.step or 1 / (top + damping)
    prepared = time.perf_counter() - started
    u, residuals, taken = _iterate(
        gradients, options, step, damping, apply, lambda vectors: curvature(vectors, samples.drawn(size, draws))
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
    gradients: Tensor,
    options: LiSSAOptions,
    step: float,
    damping: float,
    apply: Callable[[Tensor], Tensor],
    apply_drawn: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, int]:
    """Run LiSSA's iteration on all query gradients; each query stops when its own residual is small enough.

    Args:
        gradients: [m, p] gradients g.
        options: greatest number of steps, and tolerance.
        step: eta.
        damping: lam.
        apply: H of the sample, by which residuals are measured.
        apply_drawn: H of a batch, drawn anew at each call.

    Returns:
        [m, p] solutions, [m] relative residuals, and the number of steps that the slowest query took.
    """
    norms = gradients.norm(dim=1).clamp_min(1e-30)
    u = step * gradients
    residuals, taken = torch.full_like(norms, math.inf), 0
    going = torch.ones_like(norms, dtype=torch.bool)
    for taken in range(1, options.iterations + 1):
        if taken > 1:
            v = u[going]
            u[going] = v + step * (gradients[going] - apply_drawn(v) - damping * v)
        if taken % LOOK == 0 or taken == options.iterations:
            v = u[going]
            residuals[going] = (gradients[going] - apply(v) - damping * v).norm(dim=1) / norms[going]
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
    """Return the largest absolute eigenvalue of a matrix given by its products, by power iteration."""
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
    """Return the mean diagonal trace(H) / p of a matrix given by its products, by Hutchinson's random signs (1990)."""
    signs = (torch.randint(0, 2, (probes, size), generator=draws) * 2 - 1).to(like)
    return float((signs * apply(signs)).sum(dim=1).mean()) / size
