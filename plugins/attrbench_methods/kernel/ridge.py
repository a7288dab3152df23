"""Ridge kernel over mean gradients, shared by TRAK, D-TRAK, their normalized variants and DAS.

Park et al. 2023, TRAK (arXiv 2303.14186), eq. 13; Zheng et al. 2024, D-TRAK (arXiv 2311.00500).

phi_x is the mean of the raw gradients over the timesteps, sketched or whole, Phi [n, k] the training set's. Everything
is computed in the dual, phi_q (Phi^T Phi + lam I)^-1 Phi_i^T = (phi_q Phi^T) (Phi Phi^T + lam I)^-1, in float64.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.feature import QueryFeatures, TrainFeatures
from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.method import Context, ExhaustiveScorer, StateSize
from attrbench.features.gradient_gram import GradientGram
from attrbench.store.artifacts import Artifact
from attrbench.store.fingerprint import fingerprint
from attrbench_methods.gradient_options import MeanGradientOptions
from attrbench_methods.kernel.kernel_features import KernelFeatures, SketchedMeans, WholeMeans

KEPT = 512
"""Number of training items from which on a spectrum is kept on disk: reading it is then faster than computing it."""
SPECTRUM_VERSION = 1
"""Version of kept spectra, raised whenever their numbers change."""


class RidgeOptions(MeanGradientOptions):
    """Options of the ridge kernel methods: mean gradients, their sketch, and the kernel's damping lam."""

    v: int | None = Field(4096, ge=1)
    """Length of the sketch of the mean gradient (TRAK's k); `none`: the exact kernel of whole gradients, none of which
    is kept."""
    damping: float = Field(0.1, gt=0, allow_inf_nan=False)
    """lam of the kernel, in the unit that `damping_mode` says; it means the same for each form of the sketch."""
    damping_mode: Literal["relative", "absolute"] = "relative"
    """`relative`: times the mean eigenvalue of the Gram matrix, trace/n; `absolute`: as it is."""

    def means(self, queries: GradientSource | None = None) -> KernelFeatures:
        """Return the kernel's gradient features: sketched means, or without a sketch the exact Gram matrix.

        Args:
            queries: what decides the queries' gradients, where it differs from the training items'.
        """
        rows = self.rows()
        if self.v is None:
            return WholeMeans(GradientGram(source=rows.source, queries=queries, timesteps=self.averaging))
        return SketchedMeans(rows, rows if queries is None else rows.model_copy(update={"source": queries}))


class Spectrum(NamedTuple):
    """Eigenvalues ([n], clipped at 0) and eigenvectors ([n, n]) of a Gram matrix of training gradients."""

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]

    @staticmethod
    def of(gram: NDArray[np.float64]) -> Spectrum:
        """Return eigenvalues and eigenvectors of an [n, n] float64 Gram matrix, with negative eigenvalues set to 0."""
        values, vectors = np.linalg.eigh(gram)
        return Spectrum(values.clip(0), np.ascontiguousarray(vectors))


class RidgeKernel:
    """Damped inverse (Phi Phi^T + lam I)^-1 of a Gram matrix, from an eigendecomposition that serves every lam.

    Args:
        spectrum: of Phi Phi^T in float64.
        damping: see `RidgeOptions`.
        relative: whether damping is in units of trace/n.
        earlier_seconds: seconds that the decomposition took in an earlier fit, if it was loaded.
    """

    def __init__(self, spectrum: Spectrum, damping: float, relative: bool, earlier_seconds: float = 0.0) -> None:
        self._values, self._vectors = spectrum
        unit = float(self._values.mean()) if relative else 1.0
        self.damping = damping * unit if unit > 0 else damping
        self.earlier_seconds = earlier_seconds

    @cached_property
    def inverse(self) -> NDArray[np.float64]:
        """Return the [n, n] damped inverse (Phi Phi^T + lam I)^-1 of the Gram matrix, computed on first use."""
        inverse: NDArray[np.float64] = (self._vectors / (self._values + self.damping)) @ self._vectors.T
        return inverse

    def leverages(self) -> NDArray[np.float64]:
        """Return the [n] leverages h_i = Phi_i (Phi^T Phi + lam I)^-1 Phi_i^T of the training items, in [0, 1)."""
        leverages: NDArray[np.float64] = np.square(self._vectors) @ (self._values / (self._values + self.damping))
        return leverages

    def influence_norms(self) -> NDArray[np.float64]:
        """Return the [n] norms |Phi_i (Phi^T Phi + lam I)^-1|, by which Relative-IF divides TRAK's scores."""
        weights = self._values / (self._values + self.damping) ** 2
        norms: NDArray[np.float64] = np.sqrt(np.square(self._vectors) @ weights)
        return norms


class RidgeScorer(ExhaustiveScorer):
    """Scorer of TRAK and relatives: tau = (phi_q Phi^T) (Phi Phi^T + lam I)^-1, divided by a norm per item if given.

    Args:
        means: features that the kernel is computed from.
        train: the training features.
        kernel: inverse kernel of the training features.
        norms: [n] divisors of each item's scores; an item with 0 scores 0.
    """

    def __init__(
        self,
        means: KernelFeatures,
        train: TrainFeatures,
        kernel: RidgeKernel,
        norms: NDArray[np.float64] | None = None,
    ) -> None:
        self._cross = means.cross(train)
        self._inverse = kernel.inverse
        self._damping, self._earlier_seconds = kernel.damping, kernel.earlier_seconds
        self._norms = norms
        self._silent = (means.norms(train) == 0).nonzero()[0]
        self._row_bytes, self._bytes_if_kept = means.row_bytes(train), means.bytes_if_kept(train)

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] ridge kernel scores of n training items for m queries; items without gradient get 0."""
        scores = self._cross(query) @ self._inverse
        scores[:, self._silent] = 0  # rounding in the inverse would leave noise, which norms blow up
        if self._norms is not None:
            scores = np.divide(scores, self._norms, out=np.zeros_like(scores), where=self._norms > 0)
        return scores.astype(np.float32)

    def facts(self) -> dict[str, float]:
        """Return the kernel's damping lam as an absolute number, for the result record."""
        return {"damping": self._damping}

    def build_seconds(self) -> float:
        """Return the seconds that the eigendecomposition took in an earlier run, 0 if it was not loaded."""
        return self._earlier_seconds

    def size(self) -> StateSize:
        """Return the bytes of the stored training gradients (0 for whole ones), the inverse kernel and the norms."""
        norms = 0 if self._norms is None else self._norms.nbytes
        shared = self._inverse.nbytes + self._silent.nbytes + norms
        return StateSize(rows=self._row_bytes, shared=shared, rows_if_kept=self._bytes_if_kept)


def fit_kernel(means: KernelFeatures, train: TrainFeatures, options: RidgeOptions, context: Context) -> RidgeKernel:
    """Return the damped inverse kernel of the training items' mean gradients, its decomposition computed or loaded."""
    spectrum, earlier = _spectrum(means, train, context)
    return RidgeKernel(spectrum, options.damping, options.damping_mode == "relative", earlier)


def _spectrum(means: KernelFeatures, train: TrainFeatures, context: Context) -> tuple[Spectrum, float]:
    """Return the Gram matrix's eigendecomposition, and the seconds it took in an earlier run if loaded from disk.

    From KEPT items on it is kept on disk, for all dampings.
    """
    if train.count < KEPT:
        return Spectrum.of(means.gram(train)), 0.0
    key = fingerprint([SPECTRUM_VERSION, context.fingerprint, train.count])
    path = context.workspace.with_name("ridge") / f"spectrum-{key[:20]}.safetensors"
    artifact = Artifact(path, "ridge spectrum", f"eigendecomposition of the Gram matrix of {train.count:,} items")
    kept = artifact.arrays(lambda: Spectrum.of(means.gram(train))._asdict())
    return Spectrum(**kept.value), kept.earlier_seconds
