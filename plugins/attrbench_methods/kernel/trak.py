"""TRAK, D-TRAK, Relative-IF and Renormalized-IF: one ridge kernel, four scores."""

from __future__ import annotations

from typing import ClassVar, Literal

from attrbench.contracts.feature import FeatureRequest, TrainFeatures
from attrbench.contracts.method import Context, Method, Scorer
from attrbench_methods.kernel.kernel_features import KernelFeatures
from attrbench_methods.kernel.ridge import RidgeOptions, RidgeScorer, fit_kernel


class TRAK(Method[RidgeOptions]):
    """tau = phi_q (Phi^T Phi + lam I)^-1 Phi_i^T over gradients of the training loss: D-TRAK's "TRAK" baseline."""

    name = "trak"
    summary = "ridge kernel over mean loss gradients"
    citation = "Park et al. 2023, TRAK (arXiv 2303.14186); Zheng et al. 2024, D-TRAK (arXiv 2311.00500)"
    Options = RidgeOptions

    @property
    def means(self) -> KernelFeatures:
        """Return the features of the kernel: mean gradients, sketched or whole."""
        return self.options.means()

    def features(self) -> FeatureRequest:
        """Return the request of the mean gradients."""
        return self.means.request()

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Return the scorer over the inverted kernel."""
        return RidgeScorer(self.means, train, fit_kernel(self.means, train, self.options, context))


class DTRAKOptions(RidgeOptions):
    """Options of `d-trak`: those of `trak` except `target`, for the output is compared with nothing."""

    needs: ClassVar = {"target": ""}
    output: Literal["squared-norm", "mean", "l1", "l2", "linf"] = "squared-norm"
    """Scalar of the network's output that is differentiated, for training items and queries alike: `squared-norm`, its
    mean square; or, as in the paper's ablation, `mean` or one of the norms `l1`, `l2`, `linf`."""
    target: ClassVar[Literal["trained"]] = "trained"  # type: ignore[misc]


class DTRAK(TRAK):
    """TRAK over gradients of the mean square of the network's output, for training items and queries alike."""

    name = "d-trak"
    summary = "ridge kernel over mean gradients of the output's square"
    citation = "Zheng et al. 2024, D-TRAK (arXiv 2311.00500)"
    Options = DTRAKOptions


class RelativeIF(TRAK):
    """TRAK's score over |Phi_i (Phi^T Phi + lam I)^-1|: the share of item i's influence that falls on the query."""

    name = "relative-if"
    summary = "TRAK over the norm of an item's influence"
    citation = "Barshan et al. 2020, RelatIF (arXiv 2003.11630)"

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Return the scorer over the inverted kernel, divided by the norms of the items' influences."""
        kernel = fit_kernel(self.means, train, self.options, context)
        return RidgeScorer(self.means, train, kernel, kernel.influence_norms())


class RenormIF(TRAK):
    """TRAK's score over |Phi_i|: influence per unit of gradient."""

    name = "renorm-if"
    summary = "TRAK over the norm of an item's gradient"
    citation = "Hammoudeh and Lowd 2022 (arXiv 2201.10055)"

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Return the scorer over the inverted kernel, divided by the norms of the items' gradients."""
        means = self.means
        return RidgeScorer(means, train, fit_kernel(means, train, self.options, context), means.norms(train))
