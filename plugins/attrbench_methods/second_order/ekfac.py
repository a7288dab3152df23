"""EK-FAC and K-FAC influence functions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from attrbench.contracts.feature import FeatureRequest, TrainFeatures
from attrbench.contracts.method import Context, Method
from attrbench.contracts.method_results import Transformed
from attrbench.features.gradient_products import GradientProducts
from attrbench_methods.first_order.product_scorer import ProductScorer
from attrbench_methods.gradient_options import GradientOptions

if TYPE_CHECKING:
    from torch import Tensor

    from attrbench.gradients.curvature.kronecker import KroneckerFactors
    from attrbench.store.artifacts import Kept


class KroneckerOptions(GradientOptions):
    """Options of `ekfac` and `kfac`."""

    grid: Literal["cubic", "uniform", "random"] = "uniform"
    """`uniform`: evenly spaced from 0; `cubic`: the released DMin code's; `random`: drawn with replacement."""
    timesteps: int = Field(10, ge=1, le=1000)
    """Number of timesteps, over which gradients are averaged."""
    noise: Literal["shared", "per-timestep", "per-item"] = "per-item"
    """`per-item`: a noise for each item and timestep; or one a timestep, or one for everything."""
    fisher: Literal["mc", "empirical"] = "mc"
    """`mc`: the Gauss-Newton matrix by random outputs, one for each draw; `empirical`: by the loss gradients."""
    sharing: Literal["expand", "reduce"] = "expand"
    """Whether positions in an image count as samples of their own, or are added up first."""
    draws: int = Field(4096, ge=1)
    """Pairs of item and timestep for the eigenvectors, and as many for the eigenvalues."""
    damping: float = Field(0.1, gt=0, allow_inf_nan=False)
    """lam of each module, in the unit that `damping_mode` says."""
    damping_mode: Literal["relative", "absolute"] = "relative"
    """`relative`: times the module's mean eigenvalue; `absolute`: as it is."""
    factor_seed: int = Field(0, ge=0)
    """Seed of the draws."""


class EKFAC(Method[KroneckerOptions]):
    """tau = sum over modules of <(H_l + lam_l I)^-1 g_q,l, g_i,l>, H_l diagonal in its Kronecker eigenvectors.

    g is the mean of the loss gradients over the timesteps; only Linear and Conv2d layers take part.
    """

    name = "ekfac"
    summary = "influence function with eigenvalue-corrected Kronecker-factored curvature"
    citation = "George et al. 2018 (arXiv 1806.03884); Grosse et al. 2023 (arXiv 2308.03296); Mlodozeniec et al. 2025"
    Options = KroneckerOptions
    quick: ClassVar[Mapping[str, str]] = {"draws": "64"}
    corrected = True

    def features(self) -> FeatureRequest:
        """Inner products of mean gradients, the queries' behind the inverse."""
        return FeatureRequest.both(self._products)

    @property
    def _products(self) -> GradientProducts:
        return GradientProducts(source=self.options.source(), timesteps="mean", transform=self.key)

    def fit(self, train: TrainFeatures, context: Context) -> ProductScorer:
        """The curvature has done its work in `transform`."""
        return ProductScorer(self._products, normalize=False)

    def transform(self, gradients: Tensor, context: Context) -> Transformed:
        """Estimates the factors, or loads what an earlier run kept, and solves for each query."""
        started = time.perf_counter()
        kept = self._factors(context)
        built = time.perf_counter() - started
        o = self.options
        solved = kept.value.solve(gradients, self.corrected, o.damping, o.damping_mode == "relative")
        facts = {"modules": float(len(kept.value.layers)), "draws": float(o.draws)}
        return Transformed(solved, facts, kept.bytes, kept.earlier_seconds or built, spent_seconds=built)

    def _factors(self, context: Context) -> Kept[KroneckerFactors]:
        import torch

        from attrbench.gradients.curvature.kronecker import (
            FactorOptions,
            KroneckerFactors,
            kronecker_factors,
            tracked_layers,
        )
        from attrbench.store.artifacts import Artifact, Kept
        from attrbench.store.fingerprint import fingerprint

        o = self.options
        pairs = context.training(o.source())
        options = FactorOptions(o.fisher, o.sharing, o.draws, o.factor_seed)
        model, items = pairs.denoiser.fingerprint, pairs.items_fingerprint
        key = fingerprint([model, items, pairs.count, o.source().model_dump(mode="json"), vars(options), self.version])
        folder = context.workspace.with_name("ekfac")  # both methods' factors are the same
        summary = f"Kronecker factors of {pairs.count:,} items, {o.fisher} Fisher, {o.draws:,} draws"
        kept = Artifact(folder / f"factors-{key[:20]}.safetensors", "EK-FAC factors", summary).arrays(
            lambda: {name: tensor.cpu().numpy() for name, tensor in kronecker_factors(pairs, options).tensors().items()}
        )
        tensors = {name: torch.from_numpy(array).to(pairs.denoiser.device) for name, array in kept.value.items()}
        return Kept(KroneckerFactors.of(tracked_layers(pairs), tensors), kept.bytes, kept.earlier_seconds)


class KFAC(EKFAC):
    """EK-FAC without the correction: eigenvalues are products of the factors' own."""

    name = "kfac"
    summary = "influence function with Kronecker-factored curvature"
    citation = "Martens and Grosse 2015 (arXiv 1503.05671); Mlodozeniec et al. 2025 (arXiv 2410.13850)"
    corrected = False
