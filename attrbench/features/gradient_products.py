"""The feature gradient products: inner products of whole training and query gradients; no gradient is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attrbench.contracts.computation import Computation, Costs, Scope, SplitName, StoreSpec
from attrbench.contracts.feature import FeatureRequest, SplitData
from attrbench.contracts.gradient_source import Declaration, GradientSource, Layers
from attrbench.features.gradient_feature import GradientFeature
from attrbench.features.source_facts import layout_of, timestep_count
from attrbench.features.views import Index, QueryProducts, TrainProducts
from attrbench.gradients.inner_products import InnerProductSink
from attrbench.gradients.pass_feature import BufferedRows, ParameterLayout, PassSetting, ShardContent
from attrbench.gradients.sinks import Sink

TRANSFORM_COSTS = ("state_bytes", "state_seconds", "query_seconds")
"""Names of numbers reported by a transform that count as storage or time in the record."""


class GradientProducts(Declaration, GradientFeature[TrainProducts, QueryProducts]):
    """Inner products [m, n, T] of each query's and each training item's unsketched gradients at matching timesteps.

    For methods without compression. No gradient is stored: the query gradients are held in memory during a pass over
    the training set, which is needed for each set of queries.

    Attributes:
        source: declaration that decides the gradients.
        layers: as in `GradientRows`; unless `all`, the products of each layer are kept apart.
        timesteps: `stack` gives the products at each timestep; `mean` the products of query and training gradients
            averaged over timesteps (T = 1).
        transform: name of the transform that the method applies to the query gradients before the products
            (`Method.transform`), including all its parameters; empty for none.
    """

    words: ClassVar[str] = "inner products with the queries"
    source: GradientSource
    layers: Layers = "all"
    timesteps: Literal["stack", "mean"] = "stack"
    transform: str = ""

    @property
    def factor_timesteps(self) -> Literal["stack", "mean"]:
        """Return which query gradients are multiplied with: those of each timestep (`stack`) or their mean."""
        return self.timesteps

    @property
    def calls_method(self) -> bool:
        """Return whether the method's own transform is applied to the query gradients before the products."""
        return bool(self.transform)

    def summary(self) -> str:
        """Return a few words for the plan: products with the queries, and the transform of the query gradients."""
        through = f" through {self.transform.split()[0]}" if self.transform else ""
        return f"inner products with the queries{through}"

    def declared(self) -> dict[str, Any]:
        """Return the feature's fields as a JSON-compatible dict, part of what identifies its files."""
        return self.model_dump(mode="json")

    def computation(self, split: SplitName) -> Computation[Any] | None:
        """Return the gradient pass over the training set, which computes the products; None for the split `query`."""
        return super().computation(split) if split == "train" else None

    def stored_in(self, split: SplitName) -> SplitName:
        """Return `train`: the products with queries are stored in the training set's shards."""
        return "train"

    def store(self, split: SplitName, scope: Scope) -> StoreSpec:
        """Return how the inner products are stored: described like rows, and by the queries and their transform."""
        spec = super().store(split, scope)
        description = dict(spec.description) | {"queries": [scope.items_fingerprint("query"), scope.count("query")]}
        if self.transform:  # which may look at all of the training set, and draw
            description["transform"] = [scope.items_fingerprint("train"), scope.count("train"), scope.seed]
        return replace(spec, description=description)

    def sink_key(self) -> tuple[object, ...]:
        """Return a key by which products with equal layers and timesteps share one sink (receiver of gradients)."""
        return ("products", self.layers, self.sums_suffice)

    def make_sink(self, features: Sequence[GradientProducts], setting: PassSetting) -> Sink:
        """Return one sink that multiplies gradients with the query gradients of all `features` in a pass."""
        factors = [setting.factors[feature].gradients for feature in features]
        return InnerProductSink(factors, setting.layout.layers(self.layers))

    @property
    def sums_suffice(self) -> bool:
        """Return True for `mean`: a sum of gradients over timesteps suffices, as products are linear in them."""
        return self.timesteps == "mean"

    @property
    def is_mean(self) -> bool:
        """Return whether one product is kept for each item and query, instead of one for each timestep."""
        return self.timesteps != "stack"

    def width(self, setting: PassSetting) -> int:
        """Return m * L, the number of products for each item and timestep: m queries times L layers."""
        return setting.factors[self].gradients.shape[1] * len(setting.layout.layers(self.layers))

    def values(self, sink: Any, columns: slice, outputs: Tensor) -> Tensor:
        """Return the [B, m * L] inner products of a batch's gradients with this feature's query gradients."""
        result: Tensor = sink.result()[:, columns]
        return result

    def shard_content(self, rows: BufferedRows) -> ShardContent:
        """Return the arrays of a shard: products, item norms, and query norms (NaN for a non-finite query gradient)."""
        factor = rows.setting.factors[self]
        norms = torch.linalg.vector_norm(factor.gradients, dim=2).T.cpu().numpy()
        arrays = {"norms": rows.norms.numpy(), "products": rows.values.numpy(), "query_norms": norms}
        return ShardContent(arrays, facts=factor.facts, shared=("query_norms",))

    def item_bytes(self, layout: ParameterLayout, scope: Scope) -> int:
        """Return the bytes that one item's stored products and norms take."""
        steps = timestep_count(self.source, scope)
        kept = 1 if self.is_mean else steps
        return 4 * (kept * scope.count("query") * len(layout.layers(self.layers)) + steps)

    def train_view(self, data: SplitData) -> TrainProducts:
        """Return the layers' sizes and the transform's facts; the inner products are in the queries' data."""
        blocks = layout_of(self.source, data.scope).layers(self.layers)
        return TrainProducts({block.name: block.size for block in blocks}, self._facts(data))

    def query_view(self, data: SplitData) -> QueryProducts:
        """Return the inner products of all queries with all training items, read from the training set's shards."""
        values: NDArray[np.float32] = data.stored.array("products")  # [n, T, m * L]
        blocks = layout_of(self.source, data.scope).layers(self.layers)
        if self.layers == "all":
            by_query = values.transpose(2, 0, 1)
        else:
            by_query = values.reshape(*values.shape[:2], -1, len(blocks)).transpose(2, 0, 1, 3)
        return QueryProducts(
            values=np.ascontiguousarray(by_query),
            query_norms=np.nan_to_num(self._query_norms(data)),
            train_norms=data.stored.array("norms"),
            bytes_if_kept=4 * values.shape[0] * values.shape[1] * sum(block.size for block in blocks),
            pass_seconds=float(data.stored.item_seconds().sum()),
            facts=self._facts(data),
        )

    @staticmethod
    def _query_norms(data: SplitData) -> NDArray[np.float32]:
        """Return the [m, T] norms of the query gradients, of which every shard holds a copy."""
        _, arrays = next(data.stored.blocks())
        norms: NDArray[np.float32] = arrays["query_norms"]
        return norms

    @staticmethod
    def _facts(data: SplitData) -> dict[str, float]:
        return {name: value for name, value in data.stored.facts().items() if name not in TRANSFORM_COSTS}

    def train_costs(self, data: SplitData) -> Costs:
        """Return the costs of state that the transform built; the gradient pass is a cost of the queries."""
        facts = data.stored.facts()
        lost: list[tuple[SplitName, int, float]] = [("train", *pair) for pair in data.stored.nonfinite()]
        steps = data.scope.model(self.source.checkpoint).timesteps(self.source.grid)
        norms = self._query_norms(data)
        lost += [("query", int(query), steps[step]) for query, step in np.argwhere(np.isnan(norms))]
        return Costs(
            cache_seconds=facts.get("state_seconds", 0.0),
            shared_bytes=int(facts.get("state_bytes", 0)),
            nonfinite=lost,
            facts=self._facts(data),
        )

    def query_costs(self, data: SplitData) -> Costs:
        """Return the seconds of one query: the pass over the training set, and its share of the transform."""
        transform = data.stored.facts().get("query_seconds", 0.0) / data.scope.count("query")
        return Costs(query_seconds=transform + float(data.stored.item_seconds().sum()))

    def select_items(self, view: TrainProducts, items: Index) -> TrainProducts:
        """Return the training set's data unchanged: it holds no products and does not depend on the items."""
        return view

    def against_items(self, view: QueryProducts, items: Index) -> QueryProducts:
        """Return the queries' inner products with the training items at `items` ([k] indices) only."""
        return view.against(items)

    def depends_on_items(self) -> bool:
        """Return True: the queries' data consists of inner products with the training items."""
        return True

    def tells_items_as_queries(self) -> bool:
        """Return False: to try training items as queries, `attrbench check` must compute products in a new pass."""
        return False

    def items_as_queries(self, train: TrainProducts, query: QueryProducts) -> QueryProducts:
        """Return `query` unchanged: its queries must be the training items already."""
        return query


def products_by_timestep(request: FeatureRequest) -> GradientProducts | None:
    """Return the products of whole gradients at each timestep, where they are all that a method requests; else None."""
    if len(request.train) != 1 or not isinstance(request.train[0], GradientProducts):
        return None
    products = request.train[0]
    is_plain = (products.layers, products.timesteps, products.transform) == ("all", "stack", "")
    return products if is_plain else None
