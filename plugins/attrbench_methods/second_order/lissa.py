"""LiSSA: an inverse Hessian by iteration (methods-spec M11)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, Scorer, StateSize
from attrbench.contracts.method_results import Transformed
from attrbench.errors import AttrbenchError
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import TrainRows
from attrbench_methods.first_order.product_scorer import ProductScorer
from attrbench_methods.second_order.block_influence import (
    BlockOptions,
    PreconditionedScorer,
    block_gradients,
    preconditioned,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from attrbench_methods.second_order.block_influence import Matrix


FLOAT32_MAX = 3e38
DIVERGED = 1e3
"""A relative residual beyond which the iteration leads nowhere."""


def diverged(step: float, residual: float, iterations: int) -> AttrbenchError:
    """What to do about it."""
    return AttrbenchError(
        f"LiSSA diverges: residual {residual:.0e} after {iterations} steps of {step:.1e}; give a smaller step"
        " (step=...), more damping, or, with hessian=hessian, hessian=ggn, which has no negative eigenvalues"
    )


class LiSSAOptions(BlockOptions):
    """Options of `lissa`."""

    needs: ClassVar = {
        **dict.fromkeys(("v", "blocks", "concatenate"), "hessian=fisher"),
        **dict.fromkeys(("sketch", "seed"), "hessian=fisher,v"),
    }
    hessian: Literal["fisher", "ggn", "hessian"] = "fisher"
    """`fisher`: the empirical Fisher matrix of the stored gradients; `ggn`: Gauss-Newton products, `hessian`: exact
    Hessian products, both of the whole network over the training set, for every query anew."""
    iterations: int = Field(500, ge=1)
    """Most steps of the iteration, J."""
    tolerance: float = Field(0.01, gt=0, lt=1)
    """Stop when the relative residual |g - (H + lam I) u| / |g| is below this; of no effect with hessian=fisher and
    batch."""
    step: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Step size eta; `none`: 1 / (the largest eigenvalue + lam)."""
    batch: int | None = Field(None, ge=1)
    """fisher: training items drawn for each step (LiSSA's sampling); `none`: all of them, which has a closed form.
    ggn and hessian: pairs of item and timestep drawn for each step, 64 by default."""

    @model_validator(mode="after")
    def _sampled_items_have_one_block_and_no_tolerance(self) -> LiSSAOptions:
        if self.hessian == "fisher" and self.batch is not None:
            if self.blocks != "single":
                raise ValueError("batch goes with blocks=single")
            if "tolerance" in self.model_fields_set:
                raise ValueError(
                    f"tolerance={self.tolerance}: has no effect with hessian=fisher and batch, where all"
                    " iterations are taken"
                )
        return self


class LiSSA(Method[LiSSAOptions]):
    """tau = <u, g_i>, u = (H + lam I)^-1 g_q by Richardson's iteration u <- u + eta (g_q - (H + lam I) u)."""

    name = "lissa"
    summary = "influence function with the inverse Hessian by iteration"
    citation = "Agarwal et al. 2017 (arXiv 1602.03943); Koh and Liang 2017 (arXiv 1703.04730)"
    Options = LiSSAOptions
    quick: ClassVar[Mapping[str, str]] = {"iterations": "20"}

    def features(self) -> FeatureRequest:
        """Sketched gradients; where the network is asked, products of whole gradients with u."""
        if self.options.hessian == "fisher":
            return FeatureRequest.both(self.options.block_rows())
        return FeatureRequest.both(self._products)

    @property
    def _products(self) -> GradientProducts:
        return GradientProducts(source=self.options.source(), timesteps="mean", transform=self._network_key)

    @property
    def _network_key(self) -> str:
        """The options that count where the network is asked: nothing of sketches and blocks."""
        used = {"hessian", "damping", "damping_mode", "iterations", "tolerance", "step", "batch"}
        return f"{self.name} v{self.version} {self.options.model_dump_json(include=used)}"

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Runs the iteration on the training gradients, or prepares to run it on each query's."""
        o = self.options
        if o.hessian != "fisher":
            return ProductScorer(self._products, normalize=False)
        feature = o.block_rows()
        training_rows = train[feature]
        if o.batch is not None:
            return SampledScorer(training_rows, feature, o, context.seed)
        facts: list[dict[str, float]] = []

        def inverse(gradients: Matrix, parameters: int) -> Matrix:
            values, vectors, spectrum = _eigen(gradients)
            damping = o.block_damping(gradients, parameters)
            weights = (values**2).sum(axis=0)
            iteration = Richardson.plan(float(spectrum.max()), damping, o.step, o.iterations)
            iteration = iteration.until(spectrum, weights, o.tolerance)
            facts.append(iteration.facts(iteration.residual(spectrum, weights)))
            if not facts[-1]["residual"] < DIVERGED:
                raise diverged(iteration.step, facts[-1]["residual"], iteration.iterations)
            return (values * iteration.filter(spectrum)) @ vectors.T

        rows = preconditioned(training_rows, inverse)
        return PreconditionedScorer(feature, rows, max(facts, key=lambda fact: fact["residual"], default={}))

    def transform(self, gradients: Tensor, context: Context) -> Transformed:
        """Runs the iteration on the queries' gradients with products of the network's own curvature."""
        from attrbench_methods.second_order.network_lissa import solve

        return solve(gradients, self.options, context)


def _eigen(gradients: Matrix) -> tuple[Matrix, Matrix, NDArray[np.float64]]:
    """Coordinates [n, r] of the gradients in eigenvectors [d, r] of F = (1/n) G^T G, with its eigenvalues [r].

    By the smaller of G^T G and G G^T; eigenvectors without any gradient are left out.
    """
    import numpy as np

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
    """u <- u + eta (g - (H + lam I) u) from u = eta g, J steps in all.

    On an eigenvector of H to the eigenvalue mu the iteration multiplies g by
    [1 - (1 - eta (mu + lam))^J] / (mu + lam), which `filter` gives without iterating.
    """

    step: float
    damping: float
    iterations: int
    top: float

    @staticmethod
    def plan(top: float, damping: float, step: float | None, iterations: int) -> Richardson:
        """With the step 1 / (top + lam) unless one is given; `top` is H's largest eigenvalue."""
        bound = top + damping
        return Richardson(step or (1 / bound if bound > 0 else 1.0), damping, iterations, top)

    def rate(self, spectrum: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 - eta (mu + lam), what is left of the residual after a step."""
        return 1 - self.step * (spectrum + self.damping)

    def filter(self, spectrum: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the iteration multiplies each eigenvector's share with."""
        import numpy as np

        with np.errstate(over="ignore"):
            return (1 - self.rate(spectrum) ** self.iterations) / (spectrum + self.damping)

    def residual(self, spectrum: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
        """|g - (H + lam I) u| / |g| where `weights` are the squares of g in the eigenvectors."""
        import numpy as np

        with np.errstate(over="ignore"):
            left = self.rate(spectrum) ** (2 * self.iterations) * weights
        return math.sqrt(float(left.sum() / weights.sum()))

    def until(self, spectrum: NDArray[np.float64], weights: NDArray[np.float64], tolerance: float) -> Richardson:
        """The fewest iterations, up to those planned, that bring the residual below the tolerance."""
        import numpy as np

        low, high = 1, self.iterations
        if np.abs(self.rate(spectrum)).max() >= 1:
            return self  # it diverges: no number of steps is better than another
        while low < high:
            middle = (low + high) // 2
            enough = replace(self, iterations=middle).residual(spectrum, weights) <= tolerance
            low, high = (low, middle) if enough else (middle + 1, high)
        return replace(self, iterations=low)

    def facts(self, residual: float) -> dict[str, float]:
        """What the record reports, with the residual that was reached."""
        return {
            "top_eigenvalue": self.top,
            "damping": self.damping,
            "step": self.step,
            "iterations": float(self.iterations),
            "residual": residual,
        }


class SampledScorer(ExhaustiveScorer):
    """LiSSA as published: every step takes the Fisher matrix of a few training items drawn anew.

    The draws are a function of the seed, and the same for all queries.

    Args:
        rows: training gradients.
        feature: the queries' rows.
        options: of the method.
        seed: of the draws.
    """

    def __init__(self, rows: TrainRows, feature: GradientRows, options: LiSSAOptions, seed: int) -> None:
        self._feature = feature
        self._gradients = block_gradients(rows, slice(None))
        damping = options.block_damping(self._gradients, rows.sizes[""] * rows.norms.shape[1])
        assert options.batch is not None
        self._batch = min(options.batch, len(self._gradients))
        if self._batch == len(self._gradients):
            top = float(_eigen(self._gradients)[2].max(initial=0))
        else:
            top = float((self._gradients**2).sum(axis=1).max())  # no batch has a larger eigenvalue
        self.iteration = Richardson.plan(top, damping, options.step, options.iterations)
        self._seed = seed
        self._residual = 0.0

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """[m, n] scores."""
        import numpy as np

        view = query[self._feature]
        asked = (view.rows.astype("f8") * view.norms[:, :, None]).reshape(len(query), -1)
        step, damping = self.iteration.step, self.iteration.damping
        draws = np.random.default_rng([self._seed, 1])
        u = step * asked
        for _ in range(self.iteration.iterations - 1):
            g = self._gradients[draws.choice(len(self._gradients), self._batch, replace=False)]
            u = u + step * (asked - (u @ g.T) @ g / len(g) - damping * u)
        left = asked - (u @ self._gradients.T) @ self._gradients / len(self._gradients) - damping * u
        norms = np.linalg.norm(asked, axis=1)
        self._residual = float(np.max(np.linalg.norm(left, axis=1) / np.where(norms > 0, norms, 1)))
        if not self._residual < DIVERGED:
            raise diverged(step, self._residual, self.iteration.iterations)
        scores: NDArray[np.float32] = (u @ self._gradients.T).astype(np.float32)
        return scores

    def facts(self) -> dict[str, float]:
        """The iteration, and the residual of the latest query under the whole training set."""
        return self.iteration.facts(self._residual)

    def size(self) -> StateSize:
        """The gradients, in double precision."""
        return StateSize(rows=self._gradients.nbytes)


class ReleasedLiSSAOptions(BlockOptions):
    """Options of `lissa-released`."""

    iterations: int = Field(10, ge=1)
    """Steps of the iteration."""
    step: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Step size."""


class ReleasedLiSSA(Method[ReleasedLiSSAOptions]):
    """The "LiSSA" of DataInf's released code, whose damping has the wrong sign: u <- g + u - eta (F u - lam u).

    Its fixed point is (F - lam I)^-1 g; it diverges where an eigenvalue of F is below lam, and at step 1 where one
    exceeds 2 + lam. It is here because published rows may rest on it (methods-spec 11.2 c); `lissa` is the method.
    """

    name = "lissa-released"
    summary = "the LiSSA of DataInf's released code, damping with the wrong sign; see lissa"
    citation = "released code of Kwon et al. 2024, DataInf (arXiv 2310.00902)"
    Options = ReleasedLiSSAOptions

    def features(self) -> FeatureRequest:
        """Sketched gradients of each block, those of `datainf`."""
        return FeatureRequest.both(self.options.block_rows())

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Runs the iteration in closed form."""
        import numpy as np

        o = self.options

        def inverse(gradients: Matrix, parameters: int) -> Matrix:
            values, vectors, spectrum = _eigen(gradients)
            rate = 1 - o.step * (spectrum - o.block_damping(gradients, parameters))
            with np.errstate(over="ignore"):
                powers = power_sum(rate, o.iterations)
            if not np.abs(powers).max() < FLOAT32_MAX / max(np.abs(values).max(), 1e-30):
                raise AttrbenchError(
                    f"the released LiSSA diverges: largest eigenvalue {spectrum.max():.1e}, step {o.step:.1e},"
                    f" {o.iterations} iterations; that is what its formula does. Use lissa"
                )
            return (values * powers) @ vectors.T

        feature = o.block_rows()
        return PreconditionedScorer(feature, preconditioned(train[feature], inverse))


def power_sum(rate: NDArray[np.float64], last: int) -> NDArray[np.float64]:
    """1 + r + ... + r^last of each rate, in closed form, to rounding near r = 1 too."""
    import numpy as np

    gap = 1 - rate
    with np.errstate(divide="ignore", invalid="ignore"):
        near = -np.expm1((last + 1) * np.log1p(-gap)) / gap  # keeps the digits that 1 - r^(last + 1) loses
        far = (1 - rate ** (last + 1)) / gap
    return np.where(gap == 0, last + 1.0, np.where(np.abs(gap) < 0.5, near, far))
