"""Methods `trak`, `d-trak`, `relative-if` and `renorm-if`, which derive their scores from the same ridge kernel."""

from __future__ import annotations

from typing import ClassVar, Literal

from attrbench.contracts.feature import FeatureRequest, TrainFeatures
from attrbench.contracts.method import Context, Method, Scorer
from attrbench_methods.kernel.kernel_features import KernelFeatures
from attrbench_methods.kernel.ridge import RidgeOptions, RidgeScorer, fit_kernel


class TRAK(Method[RidgeOptions]):
    """Attribution by a ridge kernel over mean gradients of the training loss, D-TRAK's "TRAK" baseline.

    tau = phi_q (Phi^T Phi + lam I)^-1 Phi_i^T.
    """

    name = "trak"
    version = 2
    summary = "ridge kernel over mean loss gradients"
    citation = "Park et al. 2023, TRAK (arXiv 2303.14186); Zheng et al. 2024, D-TRAK (arXiv 2311.00500)"
    Options = RidgeOptions

    @property
    def means(self) -> KernelFeatures:
        """Return the kernel's gradient features: mean loss gradients, sketched or as a Gram matrix of whole ones."""
        return self.options.means()

    def features(self) -> FeatureRequest:
        """Request the mean gradients of training items and queries that the ridge kernel is computed from."""
        return self.means.request()

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Return the ridge kernel scorer, after inverting the damped Gram matrix of the training gradients."""
        return RidgeScorer(self.means, train, fit_kernel(self.means, train, self.options, context))


class DTRAKOptions(RidgeOptions):
    """Options of the method `d-trak`: `trak`'s without the loss target, as only the output is differentiated."""

    needs: ClassVar = {"target": ""}
    output: Literal["squared-norm", "mean", "l1", "l2", "linf"] = "squared-norm"
    """Scalar of the network's output that is differentiated, for training items and queries alike: `squared-norm`, its
    mean square; or, as in the paper's ablation, `mean` or one of the norms `l1`, `l2`, `linf`."""
    target: ClassVar[Literal["trained"]] = "trained"  # type: ignore[misc]


class DTRAK(TRAK):
    """TRAK with gradients of the mean square of the network's output in place of the training loss."""

    name = "d-trak"
    summary = "ridge kernel over mean gradients of the output's square"
    citation = "Zheng et al. 2024, D-TRAK (arXiv 2311.00500)"
    Options = DTRAKOptions


class RelativeIF(TRAK):
    """TRAK's score divided by the norm |Phi_i (Phi^T Phi + lam I)^-1| of the training item's influence."""

    name = "relative-if"
    summary = "TRAK over the norm of an item's influence"
    citation = "Barshan et al. 2020, RelatIF (arXiv 2003.11630)"

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Return a ridge kernel scorer that divides each training item's scores by the norm of its influence."""
        kernel = fit_kernel(self.means, train, self.options, context)
        return RidgeScorer(self.means, train, kernel, kernel.influence_norms())


class RenormIF(TRAK):
    """TRAK's score divided by the norm of the training item's mean gradient: influence per unit of gradient."""

    name = "renorm-if"
    summary = "TRAK over the norm of an item's gradient"
    citation = "Hammoudeh and Lowd 2022 (arXiv 2201.10055)"

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Return a ridge kernel scorer that divides each training item's scores by the norm of its gradient."""
        means = self.means
        return RidgeScorer(means, train, fit_kernel(means, train, self.options, context), means.norms(train))
