"""Faiss indexes by factory string: Flat, IVF64,Flat, HNSW32, PQ64, ..."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.method import StateSize
from attrbench.contracts.ranking import Ranking, top_k
from attrbench.errors import UsageError
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import TrainRows
from attrbench.search.exact import ExactSearch, rows_bytes
from attrbench.search.index_files import IndexSearch, kept_index
from attrbench.search.libraries import search_library
from attrbench.search.vectors import query_vectors, train_vectors
from attrbench.store.fingerprint import fingerprint

if TYPE_CHECKING:
    import faiss


TRAINING_BYTES = 2 * 2**30


def make_index(factory: str, width: int) -> faiss.Index:
    """An empty inner-product index for vectors of `width` numbers.

    Raises:
        UsageError: where Faiss does not understand the string, or can't apply it to this width.
        Unavailable: where Faiss does not import.
    """
    library = search_library("faiss")
    try:
        index: faiss.Index = library.index_factory(width, factory, library.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UsageError(f"Faiss can't make an index from '{factory}' at width {width}: {_reason(error)}") from None
    return index


def _reason(error: RuntimeError) -> str:
    """What Faiss means, without the C++ signature and source line before it."""
    return re.split(r"\.(?:cpp|h):\d+: ", str(error))[-1].strip().replace("\n", " ")


class FaissSearch(IndexSearch):
    """Inner-product search in an index that `faiss.index_factory` makes.

    Args:
        rows: the training rows.
        feature: of the queries.
        normalize: whether each timestep's gradient has unit norm.
        index: the factory string.
        nprobe: cells visited by IVF indexes; None keeps Faiss' default of 1.
        rerank: how many times k candidates are taken from the index and scored exactly from the stored rows; 0 to
            trust the index.
        folder: where indexes are kept.
        key: fingerprint of the rows.
    """

    def __init__(
        self,
        rows: TrainRows,
        feature: GradientRows,
        normalize: bool,
        index: str,
        nprobe: int | None,
        rerank: int,
        folder: Path,
        key: str,
    ) -> None:
        library = search_library("faiss")
        self._rows = rows
        self._feature = feature
        self._normalize = normalize
        self._rerank = rerank
        name = fingerprint({"rows": key, "count": rows.count, "normalize": normalize, "index": index})
        self._kept = kept_index(
            folder / f"faiss-{name[:20]}.bin",
            f"Faiss index {index} of {rows.count:,} rows",
            build=lambda: self._build(index),
            save=library.write_index,
            load=library.read_index,
        )
        self._index = self._kept.value
        if nprobe is not None:
            try:
                library.ParameterSpace().set_index_parameter(self._index, "nprobe", nprobe)
            except RuntimeError:
                raise UsageError(f"index '{index}' has no nprobe; leave the option out") from None

    def _build(self, factory: str) -> faiss.Index:
        index = make_index(factory, self._rows.width)
        if not index.is_trained:
            try:
                index.train(self._training_vectors())
            except RuntimeError as error:
                raise UsageError(
                    f"Faiss can't train '{factory}' on {self._rows.count} rows: {_reason(error)}"
                ) from None
        try:
            for _, block in train_vectors(self._rows, self._normalize):
                index.add(np.ascontiguousarray(block))
        except RuntimeError as error:
            raise UsageError(f"Faiss can't add rows to '{factory}': {_reason(error)}") from None
        return index

    def _training_vectors(self) -> NDArray[np.float32]:
        """Rows for the index's training, evenly spaced over the training set, as many as fit into a fixed memory."""
        most = max(1, TRAINING_BYTES // (4 * self._rows.width))
        items = np.arange(0, self._rows.count, -(-self._rows.count // most))
        rows = self._rows.take(items)
        if not self._normalize:
            rows = rows * self._rows.norms[items][:, :, None]
        return rows.reshape(len(rows), -1)

    def top(self, query: QueryFeatures, k: int) -> Ranking:
        """The k largest inner products that the index finds, exact ones with `rerank`; -1 where it finds fewer."""
        k = min(k, self._rows.count)
        candidates = min(max(1, self._rerank) * k, self._rows.count)
        scores, ids = self._index.search(query_vectors(query[self._feature], self._normalize), candidates)
        ids, scores = ids.astype(np.int64), scores.astype(np.float32)
        if not self._rerank:
            return Ranking(ids, scores)
        exact = self.exact()
        best = [_best(exact, query.query(row), found[found >= 0], k) for row, found in enumerate(ids)]
        return Ranking(np.stack([ranking.ids for ranking in best]), np.stack([ranking.scores for ranking in best]))

    def size(self) -> StateSize:
        """The index file, and for re-ranking the stored rows."""
        rows = rows_bytes(self._rows, self._normalize) if self._rerank else 0
        return StateSize(rows=rows, index=self._kept.bytes)


def _best(exact: ExactSearch, query: QueryFeatures, found: NDArray[np.int64], k: int) -> Ranking:
    """The k best of the items that were found for one query, scored exactly; -1 beyond them."""
    found = np.sort(found)  # ties go to the smaller index
    ids, scores = np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32)
    if len(found):
        ranking = top_k(exact.rescore(query, found)[None], k)
        ids[: ranking.ids.shape[1]] = found[ranking.ids[0]]
        scores[: ranking.ids.shape[1]] = ranking.scores[0]
    return Ranking(ids, scores)
