"""The ridge kernel over gradient features that TRAK, D-TRAK and their normalized relatives share (methods-spec M7).

phi_x is the mean of the raw gradients over the timesteps, sketched or whole, Phi [n, k] the training set's. Everything
is computed in the dual, phi_q (Phi^T Phi + lam I)^-1 Phi_i^T = (phi_q Phi^T) (Phi Phi^T + lam I)^-1, in float64.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from attrbench.contracts.feature import FeaturePlan, GradientGram, GradientSource, QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context, ExhaustiveScorer, StateSize
from attrbench_methods.gradient_options import MeanGradientOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KEPT = 512
"""Training items from which on the Gram matrix and its decomposition take longer than reading the latter."""


SPECTRUM_VERSION = 1
"""Raised whenever a kept spectrum would be another than before."""


class RidgeOptions(MeanGradientOptions):
    """Options of the ridge kernel methods."""

    v: int | None = Field(4096, ge=1)
    """Length of the sketch of the mean gradient (TRAK's k); `none`: the exact kernel of whole gradients, none of which
    is kept."""
    sketch: Literal["rotation", "permutation", "rademacher", "gaussian"] = "rotation"
    """Form of the sketch; all are unbiased, so that damping means the same for each."""
    damping: float = Field(0.1, gt=0, allow_inf_nan=False)
    """lam of the kernel, in the unit that `damping_mode` says."""
    damping_mode: Literal["relative", "absolute"] = "relative"
    """`relative`: times the mean eigenvalue of the Gram matrix, trace/n; `absolute`: as it is."""

    def plan(
        self,
        output: Literal["loss", "squared-norm", "mean"] = "loss",
        timesteps: Literal["mean", "mean-normalized"] = "mean",
        checkpoint: str = "final",
        queries: GradientSource | None = None,
    ) -> FeaturePlan:
        """Rows of sketches, or the Gram matrix of whole gradients; `queries` where their source is another."""
        rows = self.rows(output, timesteps, checkpoint)
        if self.v is None:
            gram = GradientGram(source=rows.source, queries=queries, timesteps=timesteps)
            return FeaturePlan(train=gram, query=gram)
        return FeaturePlan(train=rows, query=rows if queries is None else rows.model_copy(update={"source": queries}))


class Spectrum(NamedTuple):
    """Eigenvalues ([n], none negative) and eigenvectors ([n, n]) of a Gram matrix."""

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]

    @staticmethod
    def of(gram: NDArray[np.float64]) -> Spectrum:
        """Decomposes."""
        import numpy as np

        values, vectors = np.linalg.eigh(gram)
        return Spectrum(values.clip(0), np.ascontiguousarray(vectors))


class RidgeKernel:
    """(Phi Phi^T + lam I)^-1 by one eigendecomposition, which serves every damping.

    Args:
        spectrum: of Phi Phi^T in float64.
        damping: see `RidgeOptions`.
        relative: whether damping is in units of trace/n.
        earlier_seconds: what the decomposition took, where an earlier fit made it.
    """

    def __init__(self, spectrum: Spectrum, damping: float, relative: bool, earlier_seconds: float = 0.0) -> None:
        self._values, self._vectors = spectrum
        unit = float(self._values.mean()) if relative else 1.0
        self.damping = damping * unit if unit > 0 else damping
        self.earlier_seconds = earlier_seconds

    @cached_property
    def inverse(self) -> NDArray[np.float64]:
        """[n, n]."""
        inverse: NDArray[np.float64] = (self._vectors / (self._values + self.damping)) @ self._vectors.T
        return inverse

    def leverages(self) -> NDArray[np.float64]:
        """[n] h_i = Phi_i (Phi^T Phi + lam I)^-1 Phi_i^T, in [0, 1): how much of item i's own fit is its own doing."""
        import numpy as np

        leverages: NDArray[np.float64] = np.square(self._vectors) @ (self._values / (self._values + self.damping))
        return leverages

    def influence_norms(self) -> NDArray[np.float64]:
        """[n] |Phi_i (Phi^T Phi + lam I)^-1|, what Relative-IF divides by."""
        import numpy as np

        weights = self._values / (self._values + self.damping) ** 2
        norms: NDArray[np.float64] = np.sqrt(np.square(self._vectors) @ weights)
        return norms


class RidgeScorer(ExhaustiveScorer):
    """tau = (phi_q Phi^T) (Phi Phi^T + lam I)^-1, each training item divided by a norm of its own.

    Args:
        train: the training features.
        kernel: over them.
        norms: [n] what each item's scores are divided by; an item with 0 scores 0.
    """

    def __init__(self, train: TrainFeatures, kernel: RidgeKernel, norms: NDArray[np.float64] | None = None) -> None:
        self._rows = train.rows
        self._inverse = kernel.inverse
        self._damping, self._earlier_seconds = kernel.damping, kernel.earlier_seconds
        self._norms = norms
        self._silent = (gradient_norms(train) == 0).nonzero()[0]
        self._bytes_if_kept = None if train.gram is None else 4 * train.count * sum((train.sizes or {}).values())

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """[m, n] scores."""
        import numpy as np

        scores = self._cross(query) @ self._inverse
        scores[:, self._silent] = 0  # rounding in the inverse would leave noise, which norms blow up
        if self._norms is not None:
            scores = np.divide(scores, self._norms, out=np.zeros_like(scores), where=self._norms > 0)
        return scores.astype(np.float32)

    def _cross(self, query: QueryFeatures) -> NDArray[np.float64]:
        """[m, n] phi_q Phi^T."""
        from attrbench.search.gram_blocks import cross_gram_blocks

        if self._rows is None:
            assert query.cross is not None
            return query.cross
        assert query.rows is not None and query.norms is not None
        return cross_gram_blocks(query.rows * query.norms[:, :, None], self._rows, raw=True)[""]

    def facts(self) -> dict[str, float]:
        """The absolute damping."""
        return {"damping": self._damping}

    def build_seconds(self) -> float:
        """What the decomposition took, where it was loaded."""
        return self._earlier_seconds

    def size(self) -> StateSize:
        """The features with their norms, unless they are whole gradients, and the inverse."""
        from attrbench.search.exact import rows_bytes

        rows = 0 if self._rows is None else rows_bytes(self._rows, normalize=False)
        norms = 0 if self._norms is None else self._norms.nbytes
        shared = self._inverse.nbytes + self._silent.nbytes + norms
        return StateSize(rows=rows, shared=shared, rows_if_kept=self._bytes_if_kept)


def gradient_norms(train: TrainFeatures) -> NDArray[np.float64]:
    """[n] |Phi_i|."""
    import numpy as np

    if train.gram is not None:
        return np.sqrt(np.diagonal(train.gram))
    assert train.rows is not None
    return train.rows.norms[:, 0].astype(np.float64)


def fit_kernel(train: TrainFeatures, options: RidgeOptions, context: Context) -> RidgeKernel:
    """The kernel of the training features."""
    spectrum, earlier = _spectrum(train, context)
    return RidgeKernel(spectrum, options.damping, options.damping_mode == "relative", earlier)


def _spectrum(train: TrainFeatures, context: Context) -> tuple[Spectrum, float]:
    """The spectrum, and the seconds it took in an earlier fit: a larger one is kept, for all methods and dampings."""
    from attrbench.store.artifacts import Artifact
    from attrbench.store.fingerprint import fingerprint

    if train.count < KEPT:
        return Spectrum.of(_gram(train)), 0.0
    key = fingerprint([SPECTRUM_VERSION, context.fingerprint, train.count])
    path = context.workspace.with_name("ridge") / f"spectrum-{key[:20]}.safetensors"
    artifact = Artifact(path, "ridge spectrum", f"eigendecomposition of the Gram matrix of {train.count:,} items")
    kept = artifact.arrays(lambda: Spectrum.of(_gram(train))._asdict())
    return Spectrum(**kept.value), kept.earlier_seconds


def _gram(train: TrainFeatures) -> NDArray[np.float64]:
    """[n, n] Phi Phi^T."""
    from attrbench.search.gram_blocks import gram_blocks

    if train.gram is not None:
        return train.gram
    assert train.rows is not None
    return gram_blocks(train.rows, raw=True)[""]
