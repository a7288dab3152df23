"""Search of gradient rows in Faiss indexes, chosen by factory string: `Flat`, `IVF64,Flat`, `HNSW32`, `PQ64`.

To Faiss' strings comes one prefix: `Fold8,` before any of them has the index hold an eighth of each row's length, the
sketch folded into a shorter one. It is meant as a first stage, whose candidates the stored rows rank.
"""

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
from attrbench.search.vectors import flat, query_vectors, train_vectors
from attrbench.store.fingerprint import fingerprint

if TYPE_CHECKING:
    import faiss


TRAINING_BYTES = 2 * 2**30
TOGETHER = 1024
"""Rows that are read at once of those that an index is trained on."""
_FOLD = re.compile(r"Fold(\d+),(.+)", re.DOTALL)


def split_fold(factory: str) -> tuple[int, str]:
    """Return by how much a factory string has rows folded (1 for not at all), and the string that is for Faiss."""
    match = _FOLD.fullmatch(factory)
    return (1, factory) if match is None else (int(match[1]), match[2])


def make_index(factory: str, width: int, steps: int = 1) -> faiss.Index:
    """Return an empty Faiss index for inner products of vectors of length `width`, by its factory string.

    Args:
        factory: see above.
        width: T * v numbers.
        steps: T, each of whose parts is folded on its own, if at all.

    Raises:
        UsageError: where the factory string is invalid, or can't be applied to this width.
        Unavailable: where Faiss can't be imported.
    """
    library, (fold, inner) = search_library("faiss"), split_fold(factory)
    if not fold or width // steps % fold:
        raise UsageError(f"'{factory}' can't fold rows of {width // steps} numbers: take one of their divisors")
    try:
        index: faiss.Index = library.index_factory(width // fold, inner, library.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UsageError(f"Faiss can't make an index from '{factory}' at width {width}: {_reason(error)}") from None
    return index


def _reason(error: RuntimeError) -> str:
    """Return the message of a Faiss error without the C++ signature and source line, for users."""
    return re.split(r"\.(?:cpp|h):\d+: ", str(error))[-1].strip().replace("\n", " ")


class FaissSearch(IndexSearch):
    """A search for the training items with the largest inner products of gradients, in a Faiss index.

    Args:
        rows: gradient rows of the training set.
        feature: the feature of the query rows.
        normalize: whether gradients are scaled to unit norm at each timestep.
        index: factory string of `faiss.index_factory`, after `Fold8,` or the like where rows are to be folded.
        nprobe: number of cells visited by IVF indexes; None for Faiss' default of 1.
        rerank: rerank * k candidates are taken from the index and scored exactly from the stored rows; 0 for none.
        folder: folder in which indexes are kept.
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
        super().__init__(rows, feature, normalize)
        self._rerank = rerank
        self._fold, _ = split_fold(index)
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
            for _, block in train_vectors(self._rows, self._normalize, self._fold):
                index.add(np.ascontiguousarray(block))
        except RuntimeError as error:
            raise UsageError(f"Faiss can't add rows to '{factory}': {_reason(error)}") from None
        return index

    def _training_vectors(self) -> NDArray[np.float32]:
        """Return up to 2 GiB of evenly spaced gradient rows as vectors [k, T * v / fold] to train the index on."""
        width = self._rows.width // self._fold
        most = max(1, TRAINING_BYTES // (4 * width))
        items = np.arange(0, self._rows.count, -(-self._rows.count // most))
        vectors = np.empty((len(items), width), np.float32)
        for first in range(0, len(items), TOGETHER):
            part = items[first : first + TOGETHER]
            rows = self._rows.take(part)
            if not self._normalize:
                rows = rows * self._rows.norms[part][:, :, None]
            vectors[first : first + TOGETHER] = flat(rows, self._fold)
        return vectors

    def top(self, query: QueryFeatures, k: int) -> Ranking:
        """Return the k items with the largest inner products that the index finds, [m, k]; ids -1 if fewer."""
        k = min(k, self._rows.count)
        candidates = min(max(1, self._rerank) * k, self._rows.count)
        scores, ids = self._index.search(query_vectors(query[self._feature], self._normalize, self._fold), candidates)
        ids, scores = ids.astype(np.int64), scores.astype(np.float32)
        if not self._rerank:
            return Ranking(ids, scores)
        exact = self.exact()
        best = [_best(exact, query.query(row), items[items >= 0], k) for row, items in enumerate(ids)]
        return Ranking(np.stack([ranking.ids for ranking in best]), np.stack([ranking.scores for ranking in best]))

    def size(self) -> StateSize:
        """Return the storage: bytes of the index file, and of the gradient rows if candidates are re-ranked."""
        rows = rows_bytes(self._rows, self._normalize) if self._rerank else 0
        return StateSize(rows=rows, index=self._kept.bytes)


def _best(exact: ExactSearch, query: QueryFeatures, candidates: NDArray[np.int64], k: int) -> Ranking:
    """Re-rank one query's candidates by exact scores and return the best k; ids are -1 beyond the candidates."""
    candidates = np.sort(candidates)  # ties go to the smaller index
    ids, scores = np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32)
    if len(candidates):
        ranking = top_k(exact.rescore(query, candidates)[None], k)
        ids[: ranking.ids.shape[1]] = candidates[ranking.ids[0]]
        scores[: ranking.ids.shape[1]] = ranking.scores[0]
    return Ranking(ids, scores)
