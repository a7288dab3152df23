"""Approximate search of gradient rows in HNSW graphs (Malkov and Yashunin 2016, arXiv:1603.09320) by hnswlib."""

from __future__ import annotations

import errno
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
from numpy.typing import NDArray

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.ranking import Ranking
from attrbench.errors import AttrbenchError
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import TrainRows
from attrbench.search.index_files import IndexSearch, kept_index
from attrbench.search.libraries import search_library
from attrbench.search.vectors import query_vectors, train_vectors
from attrbench.store.fingerprint import fingerprint

if TYPE_CHECKING:
    import hnswlib

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HNSWGraph:
    """The parameters of an HNSW graph (nearest-neighbor search): links, candidate list size and seed.

    Attributes:
        m: number of links of a node (M in hnswlib and the paper).
        ef_construction: size of the candidate list while building.
        seed: seed of the nodes' random levels.
    """

    m: int = 16
    ef_construction: int = 200
    seed: int = 42


def check_memory(count: int, width: int, graph: HNSWGraph) -> None:
    """Raise an error where a graph does not fit into the memory that is free: it holds all vectors as float32.

    Besides them hnswlib holds 2 M links of 4 bytes at the lowest level, and some 128 bytes of the levels above, labels
    and locks.

    Args:
        count: number of vectors.
        width: length of a vector.
        graph: parameters of the graph.

    Raises:
        AttrbenchError: says what is needed, what is free, and what needs less.
    """
    need, free = count * (4 * width + 8 * graph.m + 128), psutil.virtual_memory().available
    if need > free:
        raise AttrbenchError(
            f"an HNSW graph holds {count:,} vectors of {width:,} numbers in memory: about {need / 1e9:,.1f} GB,"
            f" {free / 1e9:,.1f} GB are free; use search=faiss with codes that are re-ranked from the disk"
            " (index=RaBitQ,rerank=5), search=exact, or a shorter sketch (v=...)"
        )


class HNSWSearch(IndexSearch):
    """An approximate search for the largest inner products of gradients in an HNSW graph, built deterministically.

    Args:
        rows: gradient rows of the training set.
        feature: the feature of the query rows.
        normalize: whether gradients are scaled to unit norm at each timestep.
        graph: parameters of the graph.
        ef: size of the candidate list while searching; at least k is used.
        folder: folder in which graphs are kept.
        key: fingerprint of the rows.
    """

    def __init__(
        self,
        rows: TrainRows,
        feature: GradientRows,
        normalize: bool,
        graph: HNSWGraph,
        ef: int,
        folder: Path,
        key: str,
    ) -> None:
        super().__init__(rows, feature, normalize)
        self._ef = ef
        check_memory(rows.count, rows.width, graph)
        name = fingerprint({"rows": key, "count": rows.count, "normalize": normalize, "graph": asdict(graph)})
        self._kept = kept_index(
            folder / f"hnsw-{name[:20]}.bin",
            f"HNSW graph of {rows.count:,} rows, M={graph.m}",
            build=lambda: self._build(graph),
            save=_save,
            load=self._load,
        )
        self._index = self._kept.value

    def _build(self, graph: HNSWGraph) -> hnswlib.Index:
        index = search_library("hnswlib").Index(space="ip", dim=self._rows.width)
        index.init_index(self._rows.count, graph.ef_construction, graph.m, graph.seed)
        for first, block in train_vectors(self._rows, self._normalize):
            index.add_items(block, np.arange(first, first + len(block)), num_threads=1)
        return index

    def _load(self, file: str) -> hnswlib.Index:
        index = search_library("hnswlib").Index(space="ip", dim=self._rows.width)
        index.load_index(file, max_elements=self._rows.count)
        return index

    def top(self, query: QueryFeatures, k: int) -> Ranking:
        """Return the k items with the largest inner products that the graph search finds, [m, k]; ids -1 if fewer."""
        k = min(k, self._rows.count)
        self._index.set_ef(max(self._ef, k))
        vectors = query_vectors(query[self._feature], self._normalize)
        try:
            labels, distances = self._index.knn_query(vectors, k, num_threads=1)
        except RuntimeError:  # hnswlib refuses to return fewer than k, which a graph in pieces may hold
            return self._short(vectors, k)
        return Ranking(labels.astype(np.int64), (1 - distances).astype(np.float32))

    def _short(self, vectors: NDArray[np.float32], k: int) -> Ranking:
        ids = np.full((len(vectors), k), -1, np.int64)
        scores = np.full((len(vectors), k), -np.inf, np.float32)
        for row, vector in enumerate(vectors):
            for fewer in range(k - 1, 0, -1):
                try:
                    labels, distances = self._index.knn_query(vector[None], fewer, num_threads=1)
                except RuntimeError:
                    continue
                ids[row, :fewer], scores[row, :fewer] = labels[0], 1 - distances[0]
                break
        log.warning("the HNSW graph reaches fewer than %d items for some queries: raise M or ef_construction", k)
        return Ranking(ids, scores)


def _save(index: hnswlib.Index, file: str) -> None:
    """Write an HNSW index to a file and check the file's size, because hnswlib does not notice a full disk."""
    index.save_index(file)
    expected, written = index.index_file_size(), Path(file).stat().st_size
    if written != expected:
        raise OSError(errno.ENOSPC, f"only {written} of {expected} bytes could be written")
