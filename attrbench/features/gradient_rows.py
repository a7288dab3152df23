"""The feature gradient rows: T unit-norm gradients of each item, sketched or whole, with their T norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from attrbench.contracts.computation import Costs, Scope
from attrbench.contracts.feature import SplitData
from attrbench.contracts.gradient_source import Declaration, GradientSource, Layers, Sketch
from attrbench.features.gradient_feature import GradientFeature
from attrbench.features.source_facts import layout_of, timestep_count
from attrbench.features.views import ChosenRows, Index, QueryRows, TrainRows
from attrbench.gradients.layer_blocks import layer_columns
from attrbench.gradients.pass_feature import BufferedRows, ParameterLayout, PassSetting, ShardContent
from attrbench.gradients.shard_buffer import TINY
from attrbench.gradients.sinks import Sink, SketchSink, WholeGradientSink
from attrbench.gradients.sketching.forms import input_projection, state_bytes
from attrbench.gradients.sketching.input_projection import InputProjection
from attrbench.store.encoding import RowType, decode_rows, encode_rows, relative_error, row_bytes
from attrbench.store.stored_rows import StoredRows


class GradientRows(Declaration, GradientFeature[TrainRows, QueryRows]):
    """Stored gradients of each item: T unit-norm rows, sketched or whole, [T, v], and their T norms.

    The norm is that of the whole gradient before sketching, so that the normalized gradient (as stored) and the raw
    gradient (multiplied by its norm) are available from one file. Where the sketch projects layers' inputs, the whole
    gradient is never formed, and the norm is that of the projected one, whose square is unbiased.

    Attributes:
        source: declaration that decides the gradients.
        sketch: the random compression to v numbers; None for whole gradients (v = p).
        timesteps: `stack` keeps the gradient of each timestep; `mean` keeps the mean of the raw gradients (T = 1 in
            all shapes), with the norm of the sketched mean; `mean-normalized` keeps the mean of unit-norm gradients.
        layers: `all` sketches the gradient as one vector; `module` and `parameter` sketch each layer separately, to
            min(v, p_layer) numbers, concatenated in one row. Without a sketch the layers are concatenated whole.
        dtype: storage type of the rows; they are read as float32 (attrbench.store.encoding).
    """

    words: ClassVar[str] = "gradient rows"
    source: GradientSource
    sketch: Sketch | None
    timesteps: Literal["stack", "mean", "mean-normalized"] = "stack"
    layers: Layers = "all"
    dtype: RowType = "float32"

    def summary(self) -> str:
        """Return a few words for the plan: the sketch length and all settings that differ from their defaults."""
        text = "whole rows" if self.sketch is None else f"sketch v={self.sketch.length}"
        if self.sketch is not None and self.sketch.form != Sketch.model_fields["form"].default:
            text += f" ({self.sketch.form})"
        for value, default, words in (
            (self.timesteps, "stack", f"{self.timesteps} over timesteps"),
            (self.layers, "all", f"{self.layers} by {self.layers}"),
            (self.dtype, "float32", self.dtype),
        ):
            text += "" if value == default else f" {words}"
        return text

    def declared(self) -> dict[str, Any]:
        """Return the feature's fields as a JSON-compatible dict, part of what identifies its files."""
        return self.model_dump(mode="json")

    @property
    def projection(self) -> InputProjection | None:
        """Return the projection of the layers' inputs with which gradients are formed, if the sketch asks for one."""
        return input_projection(self.sketch)

    def sink_key(self) -> tuple[object, ...]:
        """Return a key by which rows share a sink: sketch form, seed, layers, raw mean or not; length plays no part."""
        if self.sketch is None:
            return ("whole", self.sums_suffice)
        return ("sketch", self.sketch.form, self.sketch.seed, self.layers, self.sums_suffice)

    def make_sink(self, features: Sequence[GradientRows], setting: PassSetting) -> Sink:
        """Return one sink that sketches gradients to the lengths of all `features`, or keeps whole gradients."""
        if self.sketch is None:
            return WholeGradientSink(setting.layout.total)
        lengths = sorted({feature.sketch.length for feature in features if feature.sketch is not None})
        layers = setting.layout.layers(self.layers)
        return SketchSink(layers, self.layers != "all", self.sketch.form, lengths, self.sketch.seed)

    @property
    def sums_suffice(self) -> bool:
        """Return True for `mean`: a sum of gradients over timesteps suffices, as sketches are linear in them."""
        return self.timesteps == "mean"

    @property
    def is_mean(self) -> bool:
        """Return whether one row (a mean over timesteps) is kept for each item, instead of one for each timestep."""
        return self.timesteps != "stack"

    @property
    def unit_norm(self) -> bool:
        """Return whether each gradient is scaled to unit norm first; not for `mean`, which averages raw gradients."""
        return self.timesteps != "mean"

    def width(self, setting: PassSetting) -> int:
        """Return the length of a row: the numbers kept for each item and timestep."""
        return self._width(setting.layout)

    def _width(self, layout: ParameterLayout) -> int:
        if self.sketch is None:
            return layout.total
        if self.layers == "all":
            return self.sketch.length
        return sum(min(self.sketch.length, layer.size) for layer in layout.layers(self.layers))

    def values(self, sink: Any, columns: slice, outputs: Tensor) -> Tensor:
        """Return the [B, width] sketches of a batch's gradients, or the whole gradients, from their sink."""
        result: Tensor = sink.result() if self.sketch is None else sink.result(self.sketch.length)
        return result

    def shard_content(self, rows: BufferedRows) -> ShardContent:
        """Return the arrays of a shard: encoded rows and their norms; means are scaled to unit norm here."""
        values, norms = rows.values, rows.norms
        if self.is_mean:
            norms = torch.linalg.vector_norm(values, dim=2)
            values = values / norms.clamp_min(TINY).unsqueeze(2)
        encoded = encode_rows(values.numpy(), self.dtype)
        return ShardContent({"norms": norms.numpy(), **encoded}, relative_error(values.numpy(), encoded))

    def item_bytes(self, layout: ParameterLayout, scope: Scope) -> int:
        """Return the bytes that one item's encoded rows and norms take."""
        steps = 1 if self.is_mean else timestep_count(self.source, scope)
        return row_bytes(self.dtype, steps, self._width(layout)) + 4 * steps

    def train_view(self, data: SplitData) -> TrainRows:
        """Return the training set's gradient rows, read from their shards on demand."""
        blocks = layout_of(self.source, data.scope).layers(self.layers)
        columns = None
        if self.layers != "all":
            columns = layer_columns(blocks, None if self.sketch is None else self.sketch.length)
        return StoredRows(data.stored, columns, {block.name: block.size for block in blocks})

    def query_view(self, data: SplitData) -> QueryRows:
        """Return the gradient rows [m, T, v] and norms [m, T] of all queries, in memory."""
        blocks = [arrays for _, arrays in data.stored.blocks()]
        rows = np.concatenate([decode_rows(arrays) for arrays in blocks])
        return QueryRows(rows, np.concatenate([arrays["norms"] for arrays in blocks]))

    def train_costs(self, data: SplitData) -> Costs:
        """Return the training set's costs: seconds of the pass, bytes of rows, and bytes that the sketch stores."""
        costs = super().train_costs(data)
        return Costs(
            cache_seconds=costs.cache_seconds,
            rows_on_disk=costs.rows_on_disk,
            shared_bytes=self._sketch_bytes(layout_of(self.source, data.scope)),
            row_error=data.stored.row_error(),
            nonfinite=costs.nonfinite,
        )

    def _sketch_bytes(self, layout: ParameterLayout) -> int:
        """Return the bytes that must be stored besides the rows so that new queries can be sketched."""
        if self.sketch is None:
            return 0
        form, length = self.sketch.form, self.sketch.length
        if self.layers == "all":
            return state_bytes(form, length, layout.total)
        return sum(state_bytes(form, min(length, layer.size), layer.size) for layer in layout.layers(self.layers))

    def select_items(self, view: TrainRows, items: Index) -> TrainRows:
        """Return the gradient rows of the training items at `items` ([k] indices), still read on demand."""
        return ChosenRows(view, items)

    def items_as_queries(self, train: TrainRows, query: QueryRows) -> QueryRows | None:
        """Return the training items' rows in the form of query rows; None if query rows have another shape."""
        rows = train.take(np.arange(train.count))
        return QueryRows(rows, train.norms) if rows.shape[1:] == query.rows.shape[1:] else None
