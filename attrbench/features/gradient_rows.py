"""Gradient rows: T gradients an item, each sketched or whole, of unit norm, with the T norms beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from attrbench.contracts.feature import Costs, Scope, SplitData
from attrbench.contracts.gradient_source import Declaration, GradientSource, Layers, Sketch
from attrbench.features.gradient_feature import GradientFeature
from attrbench.features.source_facts import layout_of
from attrbench.features.views import ChosenRows, Index, QueryRows, TrainRows
from attrbench.gradients.layer_blocks import layer_columns
from attrbench.gradients.pass_feature import BufferedRows, ParameterLayout, PassSetting, ShardContent
from attrbench.gradients.shard_buffer import TINY
from attrbench.gradients.sinks import Sink, SketchSink, WholeGradientSink
from attrbench.gradients.sketching.reference import state_bytes
from attrbench.store.encoding import RowType, decode_rows, encode_rows, relative_error, row_bytes
from attrbench.store.stored_rows import StoredRows


class GradientRows(Declaration, GradientFeature[TrainRows, QueryRows]):
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

    words: ClassVar[str] = "gradient rows"
    source: GradientSource
    sketch: Sketch | None
    timesteps: Literal["stack", "mean", "mean-normalized"] = "stack"
    layers: Layers = "all"
    dtype: RowType = "float32"

    def summary(self) -> str:
        """Return the sketch's length, and what is not at its default."""
        text = "whole rows" if self.sketch is None else f"sketch v={self.sketch.length}"
        if self.sketch is not None and self.sketch.form != "rotation":
            text += f" ({self.sketch.form})"
        for value, default, words in (
            (self.timesteps, "stack", f"{self.timesteps} over timesteps"),
            (self.layers, "all", f"{self.layers} by {self.layers}"),
            (self.dtype, "float32", self.dtype),
        ):
            text += "" if value == default else f" {words}"
        return text

    def declared(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return self.model_dump(mode="json")

    def sink_key(self) -> tuple[object, ...]:
        """Rows of one sketch form, seed and cut share a sink, whatever their lengths and storage types."""
        if self.sketch is None:
            return ("whole", self.sums_suffice)
        return ("sketch", self.sketch.form, self.sketch.seed, self.layers, self.sums_suffice)

    def make_sink(self, features: Sequence[GradientRows], setting: PassSetting) -> Sink:
        """Return one sink for sketches of several lengths, or for whole gradients."""
        if self.sketch is None:
            return WholeGradientSink(setting.layout.total)
        lengths = sorted({feature.sketch.length for feature in features if feature.sketch is not None})
        layers = setting.layout.layers(self.layers)
        return SketchSink(layers, self.layers != "all", self.sketch.form, lengths, self.sketch.seed)

    @property
    def sums_suffice(self) -> bool:
        """The mean of raw gradients is linear in them."""
        return self.timesteps == "mean"

    @property
    def is_mean(self) -> bool:
        """Whether one row an item is kept."""
        return self.timesteps != "stack"

    @property
    def unit_norm(self) -> bool:
        """Raw gradients are averaged as they are; all others are scaled first."""
        return self.timesteps != "mean"

    def width(self, setting: PassSetting) -> int:
        """Return the numbers kept of one item and timestep."""
        return self._width(setting.layout)

    def _width(self, layout: ParameterLayout) -> int:
        if self.sketch is None:
            return layout.total
        if self.layers == "all":
            return self.sketch.length
        return sum(min(self.sketch.length, layer.size) for layer in layout.layers(self.layers))

    def values(self, sink: Any, columns: slice, outputs: Tensor) -> Tensor:
        """Return the [B, width] sketches or gradients."""
        result: Tensor = sink.result() if self.sketch is None else sink.result(self.sketch.length)
        return result

    def shard_content(self, rows: BufferedRows) -> ShardContent:
        """Return the encoded rows and their norms; a mean is scaled to unit norm only here."""
        values, norms = rows.values, rows.norms
        if self.is_mean:
            norms = torch.linalg.vector_norm(values, dim=2)
            values = values / norms.clamp_min(TINY).unsqueeze(2)
        encoded = encode_rows(values.numpy(), self.dtype)
        return ShardContent({"norms": norms.numpy(), **encoded}, relative_error(values.numpy(), encoded))

    def item_bytes(self, layout: ParameterLayout, scope: Scope) -> int:
        """Return the bytes of an item's rows and norms."""
        steps = 1 if self.is_mean else self.source.grid.steps
        return row_bytes(self.dtype, steps, self._width(layout)) + 4 * steps

    def train_view(self, data: SplitData) -> TrainRows:
        """Return the rows in their shards."""
        blocks = layout_of(self.source, data.scope).layers(self.layers)
        columns = None
        if self.layers != "all":
            columns = layer_columns(blocks, None if self.sketch is None else self.sketch.length)
        return StoredRows(data.stored, columns, {block.name: block.size for block in blocks})

    def query_view(self, data: SplitData) -> QueryRows:
        """Return the rows in memory."""
        blocks = [arrays for _, arrays in data.stored.blocks()]
        rows = np.concatenate([decode_rows(arrays) for arrays in blocks])
        return QueryRows(rows, np.concatenate([arrays["norms"] for arrays in blocks]))

    def train_costs(self, data: SplitData) -> Costs:
        """Return the pass, the files, and what the sketch keeps besides its seed."""
        costs = super().train_costs(data)
        return Costs(
            cache_seconds=costs.cache_seconds,
            rows_on_disk=costs.rows_on_disk,
            shared_bytes=self._sketch_bytes(layout_of(self.source, data.scope)),
            row_error=data.stored.row_error(),
            nonfinite=costs.nonfinite,
        )

    def _sketch_bytes(self, layout: ParameterLayout) -> int:
        """Return what must be kept besides the rows so that a new query can be sketched."""
        if self.sketch is None:
            return 0
        form, length = self.sketch.form, self.sketch.length
        if self.layers == "all":
            return state_bytes(form, length, layout.total)
        return sum(state_bytes(form, min(length, layer.size), layer.size) for layer in layout.layers(self.layers))

    def select_items(self, view: TrainRows, items: Index) -> TrainRows:
        """Return the rows of some items."""
        return ChosenRows(view, items)

    def items_as_queries(self, train: TrainRows, query: QueryRows) -> QueryRows | None:
        """Return the training rows as queries' rows, where they are as long."""
        rows = train.take(np.arange(train.count))
        return QueryRows(rows, train.norms) if rows.shape[1:] == query.rows.shape[1:] else None
