"""Faiss indexes by factory string: Flat, IVF64,Flat, HNSW32, PQ64, ..."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attrbench.errors import UsageError
from attrbench.features import QueryFeatures, Rows
from attrbench.method import Ranking
from attrbench.retrieval.index_files import IndexSearch, kept_index
from attrbench.retrieval.rows import query_vectors, train_vectors
from attrbench.store.fingerprint import fingerprint

if TYPE_CHECKING:
    import faiss


def make_index(factory: str, width: int) -> faiss.Index:
    """An empty inner-product index for vectors of `width` numbers.

    Raises:
        UsageError: where Faiss does not understand the string, or can't apply it to this width.
    """
    import faiss

    try:
        return faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UsageError(f"Faiss can't make an index from '{factory}' at width {width}: {_reason(error)}") from None


def _reason(error: RuntimeError) -> str:
    """What Faiss means, without the C++ signature and source line before it."""
    return re.split(r"\.(?:cpp|h):\d+: ", str(error))[-1].strip().replace("\n", " ")


class FaissSearch(IndexSearch):
    """Inner-product search in an index that `faiss.index_factory` makes.

    Args:
        rows: the training rows.
        normalise: whether each timestep's gradient has unit norm.
        index: the factory string.
        nprobe: cells visited by IVF indexes; None keeps Faiss' default of 1.
        folder: where indexes are kept.
        key: fingerprint of the rows.
    """

    def __init__(self, rows: Rows, normalise: bool, index: str, nprobe: int | None, folder: Path, key: str) -> None:
        import faiss

        self._rows = rows
        self._normalise = normalise
        name = fingerprint({"rows": key, "count": rows.count, "normalise": normalise, "index": index})
        self._kept = kept_index(
            folder / f"faiss-{name[:20]}.bin",
            build=lambda: self._build(index),
            save=faiss.write_index,
            load=faiss.read_index,
        )
        self._index = self._kept.index
        if nprobe is not None:
            try:
                faiss.ParameterSpace().set_index_parameter(self._index, "nprobe", nprobe)
            except RuntimeError:
                raise UsageError(f"index '{index}' has no nprobe; leave the option out") from None

    def _build(self, factory: str) -> faiss.Index:
        index = make_index(factory, self._rows.width)
        blocks = [block for _, block in train_vectors(self._rows, self._normalise)]
        if not index.is_trained:
            try:
                index.train(np.concatenate(blocks))
            except RuntimeError as error:
                raise UsageError(
                    f"Faiss can't train '{factory}' on {self._rows.count} rows: {_reason(error)}"
                ) from None
        try:
            for block in blocks:
                index.add(np.ascontiguousarray(block))
        except RuntimeError as error:
            raise UsageError(f"Faiss can't add rows to '{factory}': {_reason(error)}") from None
        return index

    def top(self, query: QueryFeatures, k: int) -> Ranking:
        """The k largest inner products that the index finds; -1 where it finds fewer."""
        scores, ids = self._index.search(query_vectors(query, self._normalise), min(k, self._rows.count))
        return Ranking(ids.astype(np.int64), scores.astype(np.float32))
