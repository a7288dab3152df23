"""What a method keeps of an item: declarations (light, hashable), and the views in which it gets them back.

A declaration is data. Two methods whose declarations are equal share the same bytes on disk; gradient
declarations with an equal `GradientSource` come out of one backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]


class _Declaration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TimestepGrid(_Declaration):
    """The timesteps at which an item is differentiated.

    Attributes:
        kind: `cubic`, the released DMin code's grid, dense at the noisiest end (methods-spec 6.3), or
            `uniform`, the grid of D-TRAK: 0, s, 2s, ... with s = 1000 // steps.
        steps: the number of timesteps, T.
    """

    kind: Literal["cubic", "uniform"] = "cubic"
    steps: int = Field(5, ge=1, le=1000)


class GradientSource(_Declaration):
    """Everything that decides a per-sample gradient before the backward pass.

    Attributes:
        output: the scalar that is differentiated: `loss` (mean squared error to the target), `squared-norm`
            (mean square of the network's output, D-TRAK) or `mean` (mean of the output, DAS).
        grid: the timesteps.
        noise: `shared`, one noise tensor for all items and timesteps (DMin); `per-timestep`; or `per-item`,
            one for each item and timestep.
        noise_seed: seed of that noise.
        image_range: `model`, the range the network was trained on, or `unit`, the [0, 1] that DMin's released
            code feeds to networks trained on [-1, 1].
        parameters: which parameters are differentiated; `all` for DDPMs.
    """

    output: Literal["loss", "squared-norm", "mean"] = "loss"
    grid: TimestepGrid = TimestepGrid()
    noise: Literal["shared", "per-timestep", "per-item"] = "shared"
    noise_seed: int = 0
    image_range: Literal["model", "unit"] = "model"
    parameters: Literal["all"] = "all"


class Sketch(_Declaration):
    """A linear sketch to `length` numbers, rebuilt from `seed` alone (attrbench.gradients.sketch)."""

    length: int = Field(ge=1)
    seed: int = 42


class GradientRows(_Declaration):
    """A row of T gradients an item, each sketched (or whole, where `sketch` is None) and of unit norm, and the T norms.

    The norm is that of the whole gradient before sketching, so that both the normalised gradient (as stored)
    and the raw one (multiplied by its norm) come from the same bytes.
    """

    source: GradientSource
    sketch: Sketch | None


class GradientProducts(_Declaration):
    """Inner products of each item's whole gradients with those of every query, at matching timesteps.

    What methods without compression need, with no gradient ever stored: the queries' gradients are held in
    memory while the training set passes by. The price is a pass over the training set for each set of queries.
    """

    source: GradientSource


class Images(_Declaration):
    """The images themselves."""


Feature = GradientRows | GradientProducts | Images


@dataclass(frozen=True)
class FeaturePlan:
    """What a method keeps of a training item and of a query; None where it needs nothing."""

    train: Feature | None
    query: Feature | None


class Rows(Protocol):
    """Unit-norm gradient rows, read from memory-mapped shards block by block."""

    @property
    def count(self) -> int:
        """Number of items, n."""

    @property
    def width(self) -> int:
        """Numbers a row, T * v."""

    @property
    def norms(self) -> FloatArray:
        """[n, T] norms of the whole gradients."""

    def blocks(self) -> Iterator[tuple[int, FloatArray]]:
        """Yields (index of the first item, [items, T, v] rows) in item order."""


@dataclass(frozen=True)
class Products:
    """Inner products with the queries.

    Attributes:
        values: [m, n, T] inner products of raw gradients.
        query_norms: [m, T].
        train_norms: [n, T].
        bytes_if_kept: what the whole gradients of the training set would take on disk.
        pass_seconds: what the pass over the training set took, which a new query would cost again.
    """

    values: FloatArray
    query_norms: FloatArray
    train_norms: FloatArray
    bytes_if_kept: int
    pass_seconds: float

    def query(self, index: int) -> Products:
        """The products of one query, as a set of one."""
        chosen = slice(index, index + 1)
        return Products(
            self.values[chosen], self.query_norms[chosen], self.train_norms, self.bytes_if_kept, self.pass_seconds
        )


@dataclass(frozen=True)
class TrainFeatures:
    """What `Method.fit` gets: the number of items, and the view that matches the declaration.

    Attributes:
        count: number of training items, n.
        rows: for `GradientRows`.
        images: [n, H, W, C] uint8, for `Images`.
    """

    count: int
    rows: Rows | None = None
    images: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class QueryFeatures:
    """What a scorer gets of m queries.

    Attributes:
        ids: [m] ids of the queries, for methods whose randomness depends on the query.
        rows: [m, T, v] unit-norm rows, for `GradientRows`.
        norms: [m, T], beside the rows.
        images: [m, H, W, C] uint8, for `Images`.
        products: for `GradientProducts`.
    """

    ids: NDArray[np.int64]
    rows: FloatArray | None = None
    norms: FloatArray | None = None
    images: NDArray[np.uint8] | None = None
    products: Products | None = None

    def query(self, index: int) -> QueryFeatures:
        """The features of one query, as a set of one."""
        one = slice(index, index + 1)
        return QueryFeatures(
            ids=self.ids[one],
            rows=None if self.rows is None else self.rows[one],
            norms=None if self.norms is None else self.norms[one],
            images=None if self.images is None else self.images[one],
            products=None if self.products is None else self.products.query(index),
        )
