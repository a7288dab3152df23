"""Common parts of influence functions whose approximate inverse Hessian is applied to one parameter block at a time.

A block is a LoRA matrix or other parameter, a module, or all parameters together. The inverse is symmetric, so it is
applied to the training gradients once, and a query costs one inner product with each training item:
tau(q, i) = sum_l <g_q,l, H_l^-1 g_i,l>.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.gradient_source import Layers
from attrbench.contracts.method import ExhaustiveScorer, StateSize
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import TrainRows
from attrbench_methods.gradient_options import MeanGradientOptions

Matrix = NDArray[np.float64]

ROUNDING = 1e-6
"""Share of the gradients' norm below which a block holds rounding errors only (measured: 1e-10; others: 1e-4)."""
LAYERS: dict[str, Layers] = {"parameter": "parameter", "module": "module", "single": "all"}


class BlockOptions(MeanGradientOptions):
    """Options of `datainf` and `lissa`: the parameter blocks, the damping, and the loss gradients with their sketch."""

    needs: ClassVar = {"target": ""}
    output: ClassVar[Literal["loss"]] = "loss"  # type: ignore[misc]
    normalize: ClassVar[Literal[False]] = False  # type: ignore[misc]
    v: int | None = Field(256, ge=1)
    """Length of the sketch of each block's gradient, where the block is larger; `none` keeps whole gradients."""
    blocks: Literal["parameter", "module", "single"] = "parameter"
    """Blocks with a Hessian each: every `parameter` (every LoRA matrix), every `module`, or a `single` block."""
    concatenate: bool = False
    """Whether the timesteps' gradients are kept side by side, as in the released code of DataInf, or averaged."""
    damping: float = Field(0.1, gt=0, allow_inf_nan=False)
    """lam of each block, in the unit that `damping_mode` says."""
    damping_mode: Literal["relative", "absolute"] = "relative"
    """`relative`: times the mean square of the block's training gradients; `absolute`: as it is."""

    def block_rows(self) -> GradientRows:
        """Return the feature that declares the sketched gradient of each parameter block, for each item and query."""
        return GradientRows(
            source=self.source(),
            sketch=self.sketching(),
            timesteps="stack" if self.concatenate else "mean",
            layers=LAYERS[self.blocks],
        )

    def block_damping(self, gradients: Matrix, parameters: int) -> float:
        """Return a block's damping: the option's value, by default times the mean square of the block's gradients.

        lam_l = damping * mean over items and coordinates of g^2; DataInf's lambda_const_param is 1/damping.

        Args:
            gradients: [n, d] of one block, sketched or not.
            parameters: length of the gradient before it is sketched.
        """
        if self.damping_mode == "absolute":
            return self.damping
        return self.damping * float((gradients**2).sum()) / (len(gradients) * parameters)


Precondition = Callable[[Matrix, int], Matrix]
"""Function from a block's training gradients [n, d] and its number of parameters to H_l^-1 g_i, [n, d]."""


def preconditioned(rows: TrainRows, precondition: Precondition) -> NDArray[np.float32]:
    """Return the [n, T * w] training gradients after each block's inverse Hessian; T timesteps or means, w numbers.

    Blocks without any gradient stay zero. So do blocks whose gradients are rounding errors only, such as the bias of
    attention's keys, to which softmax is blind: a relative damping would raise them to the weight of all others.
    """
    steps = rows.norms.shape[1]
    width = rows.width // steps
    result = np.zeros((rows.count, steps, width), np.float32)
    columns = rows.layers or {"": slice(0, width)}
    floor = ROUNDING * float(np.linalg.norm(rows.norms.astype(np.float64)))
    for name, chosen in columns.items():
        gradients = block_gradients(rows, chosen)
        if np.linalg.norm(gradients) > floor:
            solved = precondition(gradients, steps * rows.sizes[name])
            result[:, :, chosen] = solved.reshape(rows.count, steps, -1)
    return result.reshape(rows.count, -1)


def block_gradients(rows: TrainRows, columns: slice) -> Matrix:
    """Return the [n, T * d] training gradients of one parameter block at full scale, in float64 for the inversion."""
    return np.concatenate(list(_raw(rows, columns)))


def _raw(rows: TrainRows, columns: slice) -> Iterator[Matrix]:
    for first, block in rows.blocks():
        norms = rows.norms[first : first + len(block), :, None].astype(np.float64)
        yield (block[:, :, columns] * norms).reshape(len(block), -1)


class PreconditionedScorer(ExhaustiveScorer):
    """Scorer of influence functions: inner products of query gradients with inverse-Hessian training gradients.

    tau = <g_q, H^-1 g_i>.

    Args:
        feature: feature of the queries' rows.
        rows: [n, T * w] training gradients, preconditioned.
        facts: numbers for the record.
    """

    def __init__(self, feature: GradientRows, rows: NDArray[np.float32], facts: dict[str, float] | None = None) -> None:
        self._feature = feature
        self._rows = rows
        self._facts = facts or {}

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] influence scores of n training items on m queries, by one matrix product."""
        raw = query[self._feature].raw.reshape(len(query), -1)
        scores: NDArray[np.float32] = np.matmul(raw, self._rows.T)
        return scores

    def facts(self) -> dict[str, float]:
        """Return the numbers of the inversion, such as damping and residual, for the result record."""
        return self._facts

    def size(self) -> StateSize:
        """Return the bytes of the inverse-Hessian training gradients, all that a new query needs."""
        return StateSize(rows=self._rows.nbytes)
