"""Methods that multiply gradients with an approximate inverse Hessian, block by block.

A block is a LoRA matrix or other parameter, a module, or everything. The inverse is symmetric, so it is applied to the
training gradients once, and a query costs one inner product with each: tau(q, i) = sum_l <g_q,l, H_l^-1 g_i,l>.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.gradient_source import Layers, Sketch
from attrbench.contracts.method import ExhaustiveScorer, StateSize
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import TrainRows
from attrbench_methods.gradient_options import MeanGradientOptions

Matrix = NDArray[np.float64]

ROUNDING = 1e-6
"""Blocks with less than this share of the training gradients' norm hold rounding only (seen: 1e-10; real: 1e-4)."""
LAYERS: dict[str, Layers] = {"parameter": "parameter", "module": "module", "single": "all"}


class BlockOptions(MeanGradientOptions):
    """Options of `datainf` and `lissa`."""

    v: int | None = Field(256, ge=1)
    """Length of the sketch of each block's gradient, where the block is larger; `none` keeps whole gradients."""
    blocks: Literal["parameter", "module", "single"] = "parameter"
    """What has a Hessian of its own: each parameter (each LoRA matrix), each module, or everything together."""
    concatenate: bool = False
    """Whether the timesteps' gradients are kept side by side, as the released code of DataInf, or averaged."""
    damping: float = Field(0.1, gt=0, allow_inf_nan=False)
    """lam of each block, in the unit that `damping_mode` says."""
    damping_mode: Literal["relative", "absolute"] = "relative"
    """`relative`: times the mean square of the block's training gradients; `absolute`: as it is."""

    def block_rows(self) -> GradientRows:
        """Return the sketches of each block's gradient, for training items and queries alike."""
        sketch = None if self.v is None else Sketch(length=self.v, seed=self.seed, form=self.sketch)
        return GradientRows(
            source=self.source(),
            sketch=sketch,
            timesteps="stack" if self.concatenate else "mean",
            layers=LAYERS[self.blocks],
        )

    def block_damping(self, gradients: Matrix, parameters: int) -> float:
        """lam_l = damping * mean over items and coordinates of g^2 (DataInf's lambda_const_param is 1/damping).

        Args:
            gradients: [n, d] of one block, sketched or not.
            parameters: how many numbers the gradient has before it is sketched.
        """
        if self.damping_mode == "absolute":
            return self.damping
        return self.damping * float((gradients**2).sum()) / (len(gradients) * parameters)


Precondition = Callable[[Matrix, int], Matrix]
"""Takes a block's training gradients [n, d] and its number of parameters, returns H_l^-1 g_i in the same shape."""


def preconditioned(rows: TrainRows, precondition: Precondition) -> NDArray[np.float32]:
    """[n, T * w] training gradients times each block's inverse; blocks without any gradient stay zero.

    So do blocks whose gradients are but rounding, such as the bias of attention's keys, which softmax does not see: a
    relative damping would raise them to the weight of all others.
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
    """[n, T * d] raw gradients of one block in float64, which inverting needs."""
    return np.concatenate(list(_raw(rows, columns)))


def _raw(rows: TrainRows, columns: slice) -> Iterator[Matrix]:
    for first, block in rows.blocks():
        norms = rows.norms[first : first + len(block), :, None].astype(np.float64)
        yield (block[:, :, columns] * norms).reshape(len(block), -1)


class PreconditionedScorer(ExhaustiveScorer):
    """tau = <g_q, H^-1 g_i>.

    Args:
        feature: the queries' rows.
        rows: [n, T * w] training gradients, preconditioned.
        facts: what the record reports.
    """

    def __init__(self, feature: GradientRows, rows: NDArray[np.float32], facts: dict[str, float] | None = None) -> None:
        self._feature = feature
        self._rows = rows
        self._facts = facts or {}

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """[m, n] scores."""
        raw = query[self._feature].raw.reshape(len(query), -1)
        scores: NDArray[np.float32] = np.matmul(raw, self._rows.T)
        return scores

    def facts(self) -> dict[str, float]:
        """As given."""
        return self._facts

    def size(self) -> StateSize:
        """The preconditioned rows, which take the place of the gradients."""
        return StateSize(rows=self._rows.nbytes)
