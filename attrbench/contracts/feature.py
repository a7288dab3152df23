"""What a method keeps of an item: declarations (light, hashable), and the views in which it gets them back.

A declaration is data. Two methods whose declarations are equal share the same bytes on disk; gradient
declarations with an equal `GradientSource` come out of one backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]


class _Declaration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TimestepGrid(_Declaration):
    """The timesteps at which an item is differentiated.

    Attributes:
        kind: `cubic`, the released DMin code's grid, dense at the noisiest end (methods-spec 6.3);
            `uniform`, the grid of D-TRAK: 0, s, 2s, ... with s = 1000 // steps; `random`, drawn from all timesteps
            with replacement; `sampler`, those that the sampler visits in `steps` steps, in its order; `single`,
            timestep `at`, `steps` times. Flow-matching models, whose timesteps are real numbers, count their training
            timesteps 0, 1, ... from the cleanest.
        steps: the number of timesteps, T.
        at: the timestep of `single`.
        seed: of `random`.
    """

    kind: Literal["cubic", "uniform", "random", "sampler", "single"] = "cubic"
    steps: int = Field(5, ge=1, le=1000)
    at: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)


class GradientSource(_Declaration):
    """Everything that decides a per-sample gradient before the backward pass.

    Attributes:
        output: the scalar that is differentiated (attrbench.gradients.model_outputs): `loss`, the mean squared error to
            the target; `weighted-loss`, the same with the weight of the variational bound; `squared-norm`, the mean
            square of the network's output (D-TRAK); `mean`, its mean (DAS); `l1`, `l2`, `linf`, its norms.
        grid: the timesteps.
        noise: `shared`, one noise tensor for all items and timesteps (DMin); `per-timestep`; or `per-item`,
            one for each item and timestep.
        noise_seed: seed of that noise.
        image_range: `model`, the range the network was trained on, or `unit`, the [0, 1] that DMin's released
            code feeds to networks trained on [-1, 1].
        target: what the network's output is compared with: `trained`, what it learned to predict (noise, v or
            velocity); or `noise`, DMin's choice whatever the network predicts, which differs for flow-matching models and for
            v-prediction (methods-spec 6.7.1).
        parameters: which parameters are differentiated: `attributed`, those that the model's own source names
            (attrbench.models.config); or one of the names that it chooses from.
        checkpoint: the weights (`Denoiser.at`): `final`; `untrained`, drawn anew; `k/n` of the way through training;
            or one of those that the model lists.
        latents: what is noised: `clean`, the item itself; or `trajectory`, the estimate of it that the sampler had at
            each of its steps (Journey-TRAK), for generated items and the grids `sampler` and `single`.
        precision: `fp32`, the reference; `tf32`, products in TensorFloat-32 on GPUs; `bf16`, bfloat16 autocast.
    """

    output: Literal["loss", "weighted-loss", "squared-norm", "mean", "l1", "l2", "linf"] = "loss"
    grid: TimestepGrid = TimestepGrid()
    noise: Literal["shared", "per-timestep", "per-item"] = "shared"
    noise_seed: int = 0
    image_range: Literal["model", "unit"] = "model"
    target: Literal["trained", "noise"] = "trained"
    parameters: Literal["attributed", "all", "lora", "transformer-blocks"] = "attributed"
    checkpoint: str = "final"
    latents: Literal["clean", "trajectory"] = "clean"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"


class Sketch(_Declaration):
    """A linear sketch to `length` numbers, rebuilt from `seed` alone.

    Attributes:
        length: v.
        seed: of signs and positions.
        form: `rotation` (attrbench.gradients.sketching.rotation), which keeps no state but the seed; `permutation`,
            DMin's own form; `rademacher` and `gaussian`, dense random projections (attrbench.gradients.sketching.reference).
    """

    length: int = Field(ge=1)
    seed: int = 42
    form: Literal["rotation", "permutation", "rademacher", "gaussian"] = "rotation"


Layers = Literal["all", "module", "parameter"]


class GradientRows(_Declaration):
    """A row of T gradients an item, each sketched (or whole, where `sketch` is None) and of unit norm, and the T norms.

    The norm is that of the whole gradient before sketching, so that both the normalized gradient (as stored)
    and the raw one (multiplied by its norm) come from the same bytes.

    Attributes:
        source: what decides the gradients.
        sketch: how they are compressed.
        timesteps: `stack` keeps each timestep's gradient; `mean` keeps the mean of the raw gradients as a single one
            (T = 1 in all shapes), whose norm is that of the row as sketched; `mean-normalized` likewise, of gradients
            that are scaled to unit norm first.
        layers: `all` sketches the gradient as one vector; `module` and `parameter` sketch that of each layer on its
            own, to min(v, p_layer) numbers, side by side in one row (methods with a block for each layer). Without a
            sketch the layers lie whole in the row.
        dtype: how rows are stored; reading gives float32 whatever it is (attrbench.store.encoding).
    """

    source: GradientSource
    sketch: Sketch | None
    timesteps: Literal["stack", "mean", "mean-normalized"] = "stack"
    layers: Layers = "all"
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"


class GradientProducts(_Declaration):
    """Inner products of each item's whole gradients with those of every query, at matching timesteps.

    What methods without compression need, with no gradient ever stored: the queries' gradients are held in
    memory while the training set passes by. The price is a pass over the training set for each set of queries.

    Attributes:
        source: what decides the gradients.
        layers: as in `GradientRows`; where not `all`, the products of each layer are kept apart.
        timesteps: `stack` gives the products of each timestep; `mean` the products of the mean gradients over the
            timesteps, on both sides (T = 1 in the products).
        transform: names what the method does to the queries' gradients before the products are taken
            (`Method.transform`); empty for nothing. Whatever decides that must be in the name.
    """

    source: GradientSource
    layers: Layers = "all"
    timesteps: Literal["stack", "mean"] = "stack"
    transform: str = ""


class GradientGram(_Declaration):
    """Inner products of the training items' whole mean gradients with each other, and with those of the queries.

    What kernel methods without a sketch need, with no gradient ever stored: they are added up in float64 layer by
    layer, over as many layers at a time as the memory holds of all items' gradients. The price is a sweep over the
    training set for each such stretch of layers, and all of them again for each new set of queries.

    Attributes:
        source: what decides the gradients.
        queries: what decides those of the queries, where it is something else.
        timesteps: `mean` of the raw gradients over the timesteps; `mean-normalized`, of gradients that are scaled to
            unit norm first.
    """

    source: GradientSource
    queries: GradientSource | None = None
    timesteps: Literal["mean", "mean-normalized"] = "mean"

    @model_validator(mode="after")
    def _of_the_same_parameters(self) -> GradientGram:
        if self.queries is not None and self.queries.parameters != self.source.parameters:
            raise ValueError("the gradients of queries and training items must be of the same parameters")
        return self


class Outputs(_Declaration):
    """The scalars themselves that the source differentiates, such as the loss; no backward pass is needed for them.

    Attributes:
        source: what decides them.
    """

    source: GradientSource


class Images(_Declaration):
    """The images themselves."""


Feature = GradientRows | GradientProducts | GradientGram | Outputs | Images


@dataclass(frozen=True)
class FeaturePlan:
    """What a method keeps of a training item and of a query; None where it needs nothing.

    Attributes:
        train, query: the features.
        parts: further features, for methods that need several of a kind: `TrainFeatures.parts` and
            `QueryFeatures.parts` have them in the same order.
    """

    train: Feature | None
    query: Feature | None
    parts: tuple[FeaturePlan, ...] = ()


class Rows(Protocol):
    """Unit-norm gradient rows, read from memory-mapped shards block by block.

    There may be more of them than the memory holds: take the blocks as they come.
    """

    @property
    def count(self) -> int:
        """Number of items, n."""

    @property
    def width(self) -> int:
        """Numbers a row, T * v."""

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes as it is stored, its norms not counted."""

    @property
    def norms(self) -> FloatArray:
        """[n, T] norms of the whole gradients."""

    def take(self, items: NDArray[np.int64]) -> FloatArray:
        """[len(items), T, v] rows of these items, in that order."""

    def blocks(self) -> Iterator[tuple[int, FloatArray]]:
        """Yields (index of the first item, [items, T, v] rows) in item order."""


@dataclass(frozen=True)
class Products:
    """Inner products with the queries.

    Attributes:
        values: [m, n, T] inner products of raw gradients, or [m, n, T, L] where L layers are kept apart.
        query_norms: [m, T].
        train_norms: [n, T].
        bytes_if_kept: what the whole gradients of the training set would take on disk.
        pass_seconds: what the pass over the training set took, which a new query would cost again.
        facts: what the method's transform said of itself.
    """

    values: FloatArray
    query_norms: FloatArray
    train_norms: FloatArray
    bytes_if_kept: int
    pass_seconds: float
    facts: Mapping[str, float] = field(default_factory=dict)

    def query(self, index: int) -> Products:
        """The products of one query, as a set of one."""
        chosen = slice(index, index + 1)
        return replace(self, values=self.values[chosen], query_norms=self.query_norms[chosen])


@dataclass(frozen=True)
class TrainFeatures:
    """What `Method.fit` gets: the number of items, and the view that matches the declaration.

    Attributes:
        count: number of training items, n.
        rows: for `GradientRows`.
        gram: [n, n], for `GradientGram`; zeros for an item whose gradient was not finite.
        layers: name and columns of each layer in a row, where a `GradientRows` keeps them apart.
        sizes: number of parameters of each layer, p_l, under the names of `layers`; of the whole gradient under the
            empty name, where layers are not kept apart.
        outputs: [n, T], for `Outputs`; 0 where one is not finite.
        images: [n, H, W, C] uint8, for `Images`.
        facts: for `GradientProducts`: what the method's transform said of itself.
        parts: of the features that `FeaturePlan.parts` declares.
    """

    count: int
    rows: Rows | None = None
    gram: NDArray[np.float64] | None = None
    layers: Mapping[str, slice] | None = None
    sizes: Mapping[str, int] | None = None
    outputs: FloatArray | None = None
    images: NDArray[np.uint8] | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    parts: tuple[TrainFeatures, ...] = ()


@dataclass(frozen=True)
class QueryFeatures:
    """What a scorer gets of m queries.

    Attributes:
        ids: [m] ids of the queries, for methods whose randomness depends on the query.
        rows: [m, T, v] unit-norm rows, for `GradientRows`.
        norms: [m, T], beside the rows.
        outputs: [m, T], for `Outputs`.
        images: [m, H, W, C] uint8, for `Images`.
        products: for `GradientProducts`.
        cross: [m, n] inner products with the training items, for `GradientGram`.
        parts: of the features that `FeaturePlan.parts` declares.
    """

    ids: NDArray[np.int64]
    rows: FloatArray | None = None
    norms: FloatArray | None = None
    outputs: FloatArray | None = None
    images: NDArray[np.uint8] | None = None
    products: Products | None = None
    cross: NDArray[np.float64] | None = None
    parts: tuple[QueryFeatures, ...] = ()

    def query(self, index: int) -> QueryFeatures:
        """The features of one query, as a set of one."""
        one = slice(index, index + 1)
        return QueryFeatures(
            ids=self.ids[one],
            rows=None if self.rows is None else self.rows[one],
            norms=None if self.norms is None else self.norms[one],
            outputs=None if self.outputs is None else self.outputs[one],
            images=None if self.images is None else self.images[one],
            products=None if self.products is None else self.products.query(index),
            cross=None if self.cross is None else self.cross[one],
            parts=tuple(part.query(index) for part in self.parts),
        )
