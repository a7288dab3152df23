"""Method `datainf`: influence function with a closed-form inverse Hessian (Kwon et al. 2024, arXiv 2310.00902)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from attrbench.contracts.feature import FeatureRequest, TrainFeatures
from attrbench.contracts.method import Context, Method, Scorer
from attrbench_methods.second_order.block_influence import BlockOptions, Matrix, PreconditionedScorer, preconditioned


class DataInfOptions(BlockOptions):
    """Options of the method `datainf`: parameter blocks, damping, sketch, and whether the Hessian is left out."""

    needs: ClassVar = dict.fromkeys(("damping", "damping_mode"), "hessian=inverse")
    hessian: Literal["inverse", "identity"] = "inverse"
    """`inverse`: DataInf; `identity`: no Hessian, the paper's "Hessian-free" row, which is GradDot."""


class DataInf(Method[DataInfOptions]):
    """Influence function with DataInf's approximate inverse Hessian of each parameter block: a mean of inverses.

    H_l^-1 = (1/n) sum_i (g_i g_i^T + lam_l I)^-1, each term by Sherman and Morrison (Kwon et al. 2024, eq. 5).
    """

    name = "datainf"
    version = 2
    summary = "influence function with DataInf's closed-form inverse Hessian, block by block"
    citation = "Kwon et al. 2024, DataInf (arXiv 2310.00902)"
    Options = DataInfOptions

    def features(self) -> FeatureRequest:
        """Request the sketched loss gradients of each parameter block, of training items and queries."""
        return FeatureRequest.both(self.options.block_rows())

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Return a scorer over the training gradients, multiplied once with DataInf's inverse Hessian."""

        def inverse(gradients: Matrix, parameters: int) -> Matrix:
            if self.options.hessian == "identity":
                return gradients
            return datainf_inverse(gradients, self.options.block_damping(gradients, parameters))

        feature = self.options.block_rows()
        return PreconditionedScorer(feature, preconditioned(train[feature], inverse))


def datainf_inverse(gradients: Matrix, damping: float) -> Matrix:
    """Return the [n, d] training gradients of a block multiplied with DataInf's approximate inverse Hessian.

    H^-1 g_k = (1/lam) [g_k - (1/n) sum_i <g_i, g_k> / (lam + |g_i|^2) g_i].

    Args:
        gradients: [n, d] training gradients of one block.
        damping: lam.
    """
    weights = 1 / (len(gradients) * (damping + (gradients**2).sum(axis=1)))
    swapped = np.linalg.multi_dot([gradients, gradients.T * weights, gradients])  # over n x n or d x d, the cheaper
    inverse: Matrix = (gradients - swapped) / damping
    return inverse
