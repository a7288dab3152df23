"""Methods that multiply gradients with an approximate inverse Hessian, block by block (methods-spec M10, M11).

A block is a LoRA matrix or other parameter, a module, or everything. The inverse is symmetric, so it is applied to the
training gradients once, and a query costs one inner product with each: tau(q, i) = sum_l <g_q,l, H_l^-1 g_i,l>.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from attrbench.contracts.feature import FeaturePlan, GradientRows, Layers, QueryFeatures, Rows, Sketch, TrainFeatures
from attrbench.contracts.method import ExhaustiveScorer, StateSize
from attrbench_methods.gradient_options import MeanGradientOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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

    def block_plan(self) -> FeaturePlan:
        """Sketches of each block's gradient, for training items and queries alike."""
        sketch = None if self.v is None else Sketch(length=self.v, seed=self.seed, form=self.sketch)
        rows = GradientRows(
            source=self.source(),
            sketch=sketch,
            timesteps="stack" if self.concatenate else "mean",
            layers=LAYERS[self.blocks],
        )
        return FeaturePlan(train=rows, query=rows)

    def block_damping(self, gradients: Matrix, parameters: int) -> float:
        """lam_l = damping * mean over items and coordinates of g^2 (DataInf's lambda_const_param is 1/damping).

        Args:
            gradients: [n, d] of one block, sketched or not.
            parameters: how many numbers the gradient has before it is sketched.
        """
        if self.damping_mode == "absolute":
            return self.damping
        return self.damping * float((gradients**2).sum()) / (len(gradients) * parameters)


Precondition = Callable[["Matrix", int], "Matrix"]
"""Takes a block's training gradients [n, d] and its number of parameters, returns H_l^-1 g_i in the same shape."""


def preconditioned(train: TrainFeatures, precondition: Precondition) -> NDArray[np.float32]:
    """[n, T * w] training gradients times each block's inverse; blocks without any gradient stay zero.

    So do blocks whose gradients are but rounding, such as the bias of attention's keys, which softmax does not see: a
    relative damping would raise them to the weight of all others.
    """
    import numpy as np

    assert train.rows is not None and train.sizes is not None
    steps = train.rows.norms.shape[1]
    width = train.rows.width // steps
    result = np.zeros((train.count, steps, width), np.float32)
    columns = train.layers or {"": slice(0, width)}
    floor = ROUNDING * float(np.linalg.norm(train.rows.norms.astype(np.float64)))
    for name, chosen in columns.items():
        gradients = block_gradients(train.rows, chosen)
        if np.linalg.norm(gradients) > floor:
            made = precondition(gradients, steps * train.sizes[name])
            result[:, :, chosen] = made.reshape(train.count, steps, -1)
    return result.reshape(train.count, -1)


def block_gradients(rows: Rows, columns: slice) -> Matrix:
    """[n, T * d] raw gradients of one block in float64, which inverting needs."""
    import numpy as np

    return np.concatenate(list(_raw(rows, columns)))


def _raw(rows: Rows, columns: slice) -> Iterator[Matrix]:
    import numpy as np

    for first, block in rows.blocks():
        norms = rows.norms[first : first + len(block), :, None].astype(np.float64)
        yield (block[:, :, columns] * norms).reshape(len(block), -1)


class PreconditionedScorer(ExhaustiveScorer):
    """tau = <g_q, H^-1 g_i>.

    Args:
        rows: [n, T * w] training gradients, preconditioned.
        facts: what the record reports.
    """

    def __init__(self, rows: NDArray[np.float32], facts: dict[str, float] | None = None) -> None:
        self._rows = rows
        self._facts = facts or {}

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """[m, n] scores."""
        import numpy as np

        assert query.rows is not None and query.norms is not None
        raw = (query.rows * query.norms[:, :, None]).reshape(len(query.rows), -1)
        scores: NDArray[np.float32] = np.matmul(raw, self._rows.T)
        return scores

    def facts(self) -> dict[str, float]:
        """As given."""
        return self._facts

    def size(self) -> StateSize:
        """The preconditioned rows, which take the place of the gradients."""
        return StateSize(rows=self._rows.nbytes)
