"""Richardson's iteration for (H + lam I) u = g, in closed form where H's eigenvectors are known; used by LiSSA."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attrbench.errors import AttrbenchError
from attrbench_methods.second_order.block_influence import Matrix

DIVERGED = 1e3
"""Relative residual from which on the iteration counts as diverging."""


def diverged(step: float, residual: float, iterations: int) -> AttrbenchError:
    """Return the error to raise when LiSSA's iteration diverges, which names options that would help."""
    return AttrbenchError(
        f"LiSSA diverges: residual {residual:.0e} after {iterations} steps of {step:.1e}; give a smaller step"
        " (step=...), more damping, or, with hessian=hessian, hessian=ggn, which has no negative eigenvalues"
    )


def eigen_coordinates(gradients: Matrix) -> tuple[Matrix, Matrix, NDArray[np.float64]]:
    """Return the eigendecomposition of the Fisher matrix F = (1/n) G^T G, and G in its eigenvectors' coordinates.

    Args:
        gradients: [n, d] G.

    Returns:
        Coordinates of the gradients [n, r], eigenvectors [d, r] and eigenvalues [r].

    Computed from the smaller of G^T G and G G^T; eigenvectors without any gradient are left out.
    """
    count, width = gradients.shape
    if width <= count:
        spectrum, vectors = np.linalg.eigh(gradients.T @ gradients / count)
        return gradients @ vectors, vectors, spectrum.clip(0)
    spectrum, left = np.linalg.eigh(gradients @ gradients.T / count)
    kept = spectrum > max(spectrum.max(), 0) * 1e-14
    spectrum, left = spectrum[kept], left[:, kept]
    scale = np.sqrt(spectrum * count)
    return left * scale, gradients.T @ (left / scale), spectrum


@dataclass(frozen=True)
class Richardson:
    """Richardson's iteration u <- u + eta (g - (H + lam I) u) with its step size, damping and number of steps.

    It begins at u = eta g and has J steps in all. On an eigenvector of H to the eigenvalue mu it multiplies g by
    [1 - (1 - eta (mu + lam))^J] / (mu + lam), which `filter` gives without iterating.
    """

    step: float
    damping: float
    iterations: int
    top: float

    @staticmethod
    def plan(top: float, damping: float, step: float | None, iterations: int) -> Richardson:
        """Return an iteration with the given step size, by default 1 / (top + lam), `top` H's largest eigenvalue."""
        bound = top + damping
        return Richardson(step or (1 / bound if bound > 0 else 1.0), damping, iterations, top)

    def rate(self, spectrum: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return 1 - eta (mu + lam) for H's eigenvalues mu: how a step shrinks the residual on each eigenvector."""
        return 1 - self.step * (spectrum + self.damping)

    def filter(self, spectrum: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return, for each eigenvector of H, the factor by which all steps together multiply g, in closed form."""
        with np.errstate(over="ignore"):
            return (1 - self.rate(spectrum) ** self.iterations) / (spectrum + self.damping)

    def residual(self, spectrum: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
        """Return the relative residual |g - (H + lam I) u| / |g| after all steps, without iterating.

        `weights` are the squares of g's coordinates in the eigenvectors.
        """
        with np.errstate(over="ignore"):
            left = self.rate(spectrum) ** (2 * self.iterations) * weights
        return math.sqrt(float(left.sum() / weights.sum()))

    def until(self, spectrum: NDArray[np.float64], weights: NDArray[np.float64], tolerance: float) -> Richardson:
        """Return the iteration cut to the fewest steps that bring the relative residual down to `tolerance`."""
        low, high = 1, self.iterations
        if np.abs(self.rate(spectrum)).max() >= 1:
            return self  # it diverges: no number of steps is better than another
        while low < high:
            middle = (low + high) // 2
            enough = replace(self, iterations=middle).residual(spectrum, weights) <= tolerance
            low, high = (low, middle) if enough else (middle + 1, high)
        return replace(self, iterations=low)

    def facts(self, residual: float) -> dict[str, float]:
        """Return largest eigenvalue, damping, step size, steps and reached residual, for the result record."""
        return {
            "top_eigenvalue": self.top,
            "damping": self.damping,
            "step": self.step,
            "iterations": float(self.iterations),
            "residual": residual,
        }


def power_sum(rate: NDArray[np.float64], last: int) -> NDArray[np.float64]:
    """Return 1 + r + ... + r^last for each rate r of an array, in closed form, precise even near r = 1."""
    gap = 1 - rate
    with np.errstate(divide="ignore", invalid="ignore"):
        near = -np.expm1((last + 1) * np.log1p(-gap)) / gap  # keeps the digits that 1 - r^(last + 1) loses
        far = (1 - rate ** (last + 1)) / gap
    return np.where(gap == 0, last + 1.0, np.where(np.abs(gap) < 0.5, near, far))
