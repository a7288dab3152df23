"""Method `dmin`: normalized, sketched loss gradients, compared exactly or by search index (arXiv 2412.08637)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from attrbench.contracts.feature import FeatureRequest, TrainFeatures
from attrbench.contracts.method import Context, Method, Scorer
from attrbench.contracts.seeds import Seed
from attrbench.errors import UsageError
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.gradient_rows import GradientRows
from attrbench.search.exact import ExactSearch
from attrbench.search.faiss_index import FaissSearch, make_index
from attrbench.search.hnsw import HNSWGraph, HNSWSearch, check_memory
from attrbench.search.libraries import search_library
from attrbench_methods.first_order.product_scorer import ProductScorer
from attrbench_methods.gradient_options import SketchedGradientOptions


class DMinOptions(SketchedGradientOptions):
    """Options of the method `dmin`: gradients, sketch, normalization, and exact, HNSW or Faiss search."""

    needs: ClassVar = {
        **dict.fromkeys(("M", "ef_construction", "ef"), "search=hnsw"),
        **dict.fromkeys(("index", "nprobe", "rerank"), "search=faiss"),
        "dtype": "v",
    }
    v: int | None = Field(4096, ge=1)
    """Length of the sketch of one timestep's gradient; `none` compares whole gradients ("w/o compression")."""
    normalize: bool = True
    """Whether each timestep's whole gradient is scaled to unit norm before it is sketched."""
    search: Literal["exact", "hnsw", "faiss"] = "exact"
    """`exact`: every item is scored; `hnsw` and `faiss`: approximate search for the top."""
    k: int | None = Field(None, ge=1)
    """Number of items that a query returns; `none`: as many as the metrics look at."""
    M: int = Field(16, ge=2, le=512)
    """Links of each node of the graph."""
    ef_construction: int = Field(200, ge=1)
    """Candidates that are looked at while the graph is built."""
    ef: int = Field(500, ge=1)
    """Candidates that are looked at in a search."""
    index: str = "Flat"
    """Faiss' factory string, such as `IVF64,Flat`. The paper does not say which one it used. With
    `Fold8,` before it the index holds each timestep's row folded to an eighth of its length."""
    nprobe: int | None = Field(None, ge=1)
    """Cells that an IVF index visits; `none`: Faiss' default."""
    rerank: int = Field(0, ge=0)
    """Candidates, in multiples of k, that are taken from the index and scored exactly; 0 trusts the index."""
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """Number format in which the training rows are stored."""
    seed: Seed = 42
    """Seed of the sketch and of the graph."""

    @model_validator(mode="after")
    def _search_needs_rows(self) -> DMinOptions:
        if self.v is None and self.search != "exact":
            raise ValueError(f"search={self.search} needs a sketch: give v, or leave search=exact")
        return self


class DMin(Method[DMinOptions]):
    """Attribution by inner products of normalized, sketched loss gradients, summed over matching timesteps.

    tau = sum over t of <S g_q^t / |g_q^t|, S g_i^t / |g_i^t|> with one sketch S for all timesteps and items.
    Loss, noise, timesteps and normalization follow the released code by default; images are in the range that the
    network was trained on, unless `image_range=unit`.
    """

    name = "dmin"
    version = 2
    summary = "normalized, sketched loss gradients; exact or nearest-neighbor search"
    citation = "Lin et al. 2024, DMin (arXiv 2412.08637)"
    Options = DMinOptions

    def __init__(self, options: DMinOptions) -> None:
        super().__init__(options)
        if options.v is None and options.normalize and options.noise == "shared":  # a sketch may err
            self.self_first = True

    def features(self) -> FeatureRequest:
        """Request sketched gradients of each item; or without a sketch, inner products of whole gradients."""
        if self.options.v is None:
            return FeatureRequest.both(self._products)
        return FeatureRequest((self._train_rows,), (self._query_rows,))

    @property
    def _products(self) -> GradientProducts:
        return GradientProducts(source=self.options.source())

    @property
    def _query_rows(self) -> GradientRows:
        return GradientRows(source=self.options.source(), sketch=self.options.sketching())

    @property
    def _train_rows(self) -> GradientRows:
        return self._query_rows.model_copy(update={"dtype": self.options.dtype})

    @property
    def _graph(self) -> HNSWGraph:
        return HNSWGraph(self.options.M, self.options.ef_construction, self.options.seed)

    def check(self, train_items: int) -> None:
        """Refuse a `k` larger than the training set, a missing search library, and an index that can't be made.

        Raises:
            UsageError: for the first, and an invalid Faiss index string.
            Unavailable: for a missing library.
            AttrbenchError: for an HNSW graph that does not fit into memory.
        """
        o = self.options
        if o.k is not None and o.k > train_items:
            raise UsageError(f"method dmin: k={o.k} is larger than the training set ({train_items} items)")
        if o.search == "faiss" and o.v is not None:
            make_index(o.index, o.timesteps * o.v, o.timesteps)
        if o.search == "hnsw" and o.v is not None:
            search_library("hnswlib")
            check_memory(train_items, o.timesteps * o.v, self._graph)

    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Return a scorer of gradient inner products, exhaustive or by an HNSW or Faiss index, built or loaded."""
        o = self.options
        if o.v is None:
            return ProductScorer(self._products, o.normalize)
        rows, queries = train[self._train_rows], self._query_rows
        if o.search == "hnsw":
            return HNSWSearch(rows, queries, o.normalize, self._graph, o.ef, context.workspace, context.fingerprint)
        if o.search == "faiss":
            return FaissSearch(
                rows, queries, o.normalize, o.index, o.nprobe, o.rerank, context.workspace, context.fingerprint
            )
        return ExactSearch(rows, queries, o.normalize)

    def depth(self, wanted: int) -> int:
        """Return how many top training items to search for: as many as the metrics want, at most the option `k`."""
        return wanted if self.options.k is None else min(wanted, self.options.k)
