"""Methods `lissa` and `lissa-released`: influence functions with an iterated inverse Hessian (Agarwal et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

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
    Matrix,
    PreconditionedScorer,
    block_gradients,
    preconditioned,
)
from attrbench_methods.second_order.lissa_options import LiSSAOptions
from attrbench_methods.second_order.network_lissa import solve
from attrbench_methods.second_order.richardson import DIVERGED, Richardson, diverged, eigen_coordinates, power_sum

FLOAT32_MAX = 3e38


class LiSSA(Method[LiSSAOptions]):
    """Influence function that applies the damped inverse Hessian by Richardson's iteration (LiSSA).

    tau = <u, g_i>, u = (H + lam I)^-1 g_q by u <- u + eta (g_q - (H + lam I) u).
    """

    name = "lissa"
    version = 2
    summary = "influence function with the inverse Hessian by iteration"
    citation = "Agarwal et al. 2017 (arXiv 1602.03943); Koh and Liang 2017 (arXiv 1703.04730)"
    Options = LiSSAOptions
    quick: ClassVar[Mapping[str, str]] = {"iterations": "20"}

    def features(self) -> FeatureRequest:
        """Request sketched gradients; for `ggn` and `hessian`, products with queries times the inverse curvature."""
        if self.options.hessian == "fisher":
            return FeatureRequest.both(self.options.block_rows())
        return FeatureRequest.both(self._products)

    @property
    def _products(self) -> GradientProducts:
        return GradientProducts(source=self.options.source(), timesteps="mean", transform=self._network_key)

    @property
    def _network_key(self) -> str:
        """Return the options that decide a solution with `ggn` or `hessian`, as text that names its products."""
        used = {"hessian", "damping", "damping_mode", "iterations", "tolerance", "step", "batch"}
        return f"{self.name} v{self.version} {self.options.model_dump_json(include=used)}"

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Return a scorer of the inverse-Hessian products; for the Fisher matrix the inverse is computed here."""
        o = self.options
        if o.hessian != "fisher":
            return ProductScorer(self._products, normalize=False)
        feature = o.block_rows()
        training_rows = train[feature]
        if o.batch is not None:
            return SampledScorer(training_rows, feature, o, context.seed)
        facts: list[dict[str, float]] = []

        def inverse(gradients: Matrix, parameters: int) -> Matrix:
            values, vectors, spectrum = eigen_coordinates(gradients)
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
        """Return the queries' gradients times the inverse Hessian or Gauss-Newton matrix, by LiSSA's iteration."""
        return solve(gradients, self.options, context)


class SampledScorer(ExhaustiveScorer):
    """Scorer of LiSSA as published: each step of a query's iteration uses the Fisher matrix of a few random items.

    The draws are a function of the seed, and the same for all queries.

    Args:
        rows: training gradients.
        feature: feature of the queries' rows.
        options: options of the method.
        seed: seed of the draws.
    """

    def __init__(self, rows: TrainRows, feature: GradientRows, options: LiSSAOptions, seed: int) -> None:
        self._feature = feature
        self._gradients = block_gradients(rows, slice(None))
        damping = options.block_damping(self._gradients, rows.sizes[""] * rows.norms.shape[1])
        assert options.batch is not None
        self._batch = min(options.batch, len(self._gradients))
        if self._batch == len(self._gradients):
            top = float(eigen_coordinates(self._gradients)[2].max(initial=0))
        else:
            top = float((self._gradients**2).sum(axis=1).max())  # no batch has a larger eigenvalue
        self.iteration = Richardson.plan(top, damping, options.step, options.iterations)
        self._seed = seed
        self._residual = 0.0

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] scores: iterate on m query gradients, then multiply with the n training gradients."""
        view = query[self._feature]
        gradients = (view.rows.astype("f8") * view.norms[:, :, None]).reshape(len(query), -1)
        step, damping = self.iteration.step, self.iteration.damping
        draws = np.random.default_rng([self._seed, 1])
        u = step * gradients
        for _ in range(self.iteration.iterations - 1):
            g = self._gradients[draws.choice(len(self._gradients), self._batch, replace=False)]
            u = u + step * (gradients - (u @ g.T) @ g / len(g) - damping * u)
        left = gradients - (u @ self._gradients.T) @ self._gradients / len(self._gradients) - damping * u
        norms = np.linalg.norm(gradients, axis=1)
        self._residual = float(np.max(np.linalg.norm(left, axis=1) / np.where(norms > 0, norms, 1)))
        if not self._residual < DIVERGED:
            raise diverged(step, self._residual, self.iteration.iterations)
        scores: NDArray[np.float32] = (u @ self._gradients.T).astype(np.float32)
        return scores

    def facts(self) -> dict[str, float]:
        """Return step, damping, number of steps and the latest queries' worst residual, for the result record."""
        return self.iteration.facts(self._residual)

    def size(self) -> StateSize:
        """Return the bytes of the stored training gradients in float64, which each new query's iteration needs."""
        return StateSize(rows=self._gradients.nbytes)


class ReleasedLiSSAOptions(BlockOptions):
    """Options of the method `lissa-released`: number and size of the steps, parameter blocks, damping and sketch."""

    iterations: int = Field(10, ge=1)
    """Number of steps of the iteration."""
    step: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Step size."""


class ReleasedLiSSA(Method[ReleasedLiSSAOptions]):
    """LiSSA as in DataInf's released code, with the damping's sign wrong, to reproduce published numbers.

    u <- g + u - eta (F u - lam u). Its fixed point is (F - lam I)^-1 g; it diverges where an eigenvalue of F is below
    lam, and at step 1 where one exceeds 2 + lam. It is here because published rows may rest on it; `lissa` is the
    method.
    """

    name = "lissa-released"
    version = 2
    summary = "the LiSSA of DataInf's released code, damping with the wrong sign; see lissa"
    citation = "released code of Kwon et al. 2024, DataInf (arXiv 2310.00902)"
    Options = ReleasedLiSSAOptions

    def features(self) -> FeatureRequest:
        """Request the sketched loss gradients of each parameter block, the same feature as `datainf`'s."""
        return FeatureRequest.both(self.options.block_rows())

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Return a scorer over the training gradients after the released iteration, computed in closed form."""
        o = self.options

        def inverse(gradients: Matrix, parameters: int) -> Matrix:
            values, vectors, spectrum = eigen_coordinates(gradients)
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
