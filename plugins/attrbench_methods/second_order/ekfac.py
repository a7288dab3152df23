"""Methods `ekfac` and `kfac`: influence functions with Kronecker-factored curvature (Mlodozeniec et al. 2025)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attrbench.contracts.feature import FeatureRequest, TrainFeatures
from attrbench.contracts.method import Context, Method
from attrbench.contracts.method_results import Transformed
from attrbench.contracts.seeds import Seed
from attrbench.features.gradient_products import GradientProducts
from attrbench.gradients.curvature.kronecker import FactorOptions, KroneckerFactors, kronecker_factors, tracked_layers
from attrbench.store.artifacts import Artifact, Kept
from attrbench.store.fingerprint import fingerprint
from attrbench_methods.first_order.product_scorer import ProductScorer
from attrbench_methods.gradient_options import AveragedGradientOptions


class KroneckerOptions(AveragedGradientOptions):
    """Options of `ekfac` and `kfac`: Fisher matrix, number of draws for the Kronecker factors, damping, gradients."""

    needs: ClassVar = {"target": ""}
    output: ClassVar[Literal["loss"]] = "loss"  # type: ignore[misc]
    normalize: ClassVar[Literal[False]] = False  # type: ignore[misc]
    fisher: Literal["mc", "empirical"] = "mc"
    """`mc`: the Gauss-Newton matrix by random outputs, one for each draw; `empirical`: the Fisher matrix of the loss
    gradients."""
    sharing: Literal["expand", "reduce"] = "expand"
    """`expand`: positions in an image count as samples of their own; `reduce`: they are added up first."""
    draws: int = Field(4096, ge=1)
    """Number of pairs of item and timestep for the eigenvectors, and as many for the eigenvalues."""
    damping: float = Field(0.1, gt=0, allow_inf_nan=False)
    """lam of each module, in the unit that `damping_mode` says."""
    damping_mode: Literal["relative", "absolute"] = "relative"
    """`relative`: times the module's mean eigenvalue; `absolute`: as it is."""
    factor_seed: Seed = 0
    """Seed of the draws."""


class EKFAC(Method[KroneckerOptions]):
    """Influence function with the inverse of an eigenvalue-corrected Kronecker approximation of the Hessian.

    tau = sum over modules of <(H_l + lam_l I)^-1 g_q,l, g_i,l>, H_l diagonal in its Kronecker eigenvectors. g is the
    mean of the loss gradients over the timesteps; only Linear and Conv2d layers take part.
    """

    name = "ekfac"
    version = 2
    summary = "influence function with eigenvalue-corrected Kronecker-factored curvature"
    citation = "George et al. 2018 (arXiv 1806.03884); Grosse et al. 2023 (arXiv 2308.03296); Mlodozeniec et al. 2025"
    Options = KroneckerOptions
    quick: ClassVar[Mapping[str, str]] = {"draws": "64"}
    corrected = True

    def features(self) -> FeatureRequest:
        """Request inner products of training gradients with query gradients that `transform` multiplied with H^-1."""
        return FeatureRequest.both(self._products)

    @property
    def _products(self) -> GradientProducts:
        return GradientProducts(source=self.options.source(), timesteps="mean", transform=self.key)

    def fit(self, train: TrainFeatures, context: Context) -> ProductScorer:
        """Return a scorer of the inner products; the inverse Hessian was applied to the queries in `transform`."""
        return ProductScorer(self._products, normalize=False)

    def transform(self, gradients: Tensor, context: Context) -> Transformed:
        """Return the queries' gradients multiplied with the damped inverse of the Kronecker-factored Hessian.

        The factors are estimated, or loaded from an earlier run.
        """
        started = time.perf_counter()
        kept = self._factors(context)
        built = time.perf_counter() - started
        o = self.options
        solved = kept.value.solve(gradients, self.corrected, o.damping, o.damping_mode == "relative")
        facts = {"modules": float(len(kept.value.layers)), "draws": float(o.draws)}
        return Transformed(solved, facts, kept.bytes, kept.earlier_seconds or built, spent_seconds=built)

    def _factors(self, context: Context) -> Kept[KroneckerFactors]:
        o = self.options
        samples = context.training(o.source())
        options = FactorOptions(o.fisher, o.sharing, o.draws, o.factor_seed)
        model, items = samples.denoiser.fingerprint, samples.items_fingerprint
        key = fingerprint(
            [model, items, samples.count, o.source().model_dump(mode="json"), vars(options), self.version]
        )
        folder = context.workspace.with_name("ekfac")  # both methods' factors are the same
        summary = f"Kronecker factors of {samples.count:,} items, {o.fisher} Fisher, {o.draws:,} draws"
        kept = Artifact(folder / f"factors-{key[:20]}.safetensors", "EK-FAC factors", summary).arrays(
            lambda: {
                name: tensor.cpu().numpy() for name, tensor in kronecker_factors(samples, options).tensors().items()
            }
        )
        tensors = {name: torch.from_numpy(array).to(samples.denoiser.device) for name, array in kept.value.items()}
        return Kept(KroneckerFactors.of(tracked_layers(samples), tensors), kept.bytes, kept.earlier_seconds)


class KFAC(EKFAC):
    """EK-FAC without the correction: the Hessian's eigenvalues are products of the Kronecker factors' eigenvalues."""

    name = "kfac"
    summary = "influence function with Kronecker-factored curvature"
    citation = "Martens and Grosse 2015 (arXiv 1503.05671); Mlodozeniec et al. 2025 (arXiv 2410.13850)"
    corrected = False
