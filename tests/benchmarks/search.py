"""Search among 9,288 rows of 10 x 4,096 numbers (the paper's SD 3 LoRA task) from the memory-mapped store, warm."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.gradient_source import GradientSource, Sketch
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import QueryRows
from attrbench.search.exact import ExactSearch
from attrbench.store.encoding import RowType, encode_rows
from attrbench.store.shards import FeatureStore, Timing, Unit, units
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards
from tests.benchmarks.timing import Figure, paired, seconds

ITEMS, STEPS, LENGTH, K = 9_288, 10, 4_096, 100
FEATURE = GradientRows(source=GradientSource(), sketch=Sketch(length=LENGTH))
PAPER_SECONDS = 8.2  # a query of exact search on this task (DMin, arXiv 2412.08637)


def speed() -> list[Figure]:
    """Exact top 100 for one query and for 16 at once, against one read of the matrix; int8 rows."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = _store(Path(folder), "float32", rng)
        exact = ExactSearch(rows, FEATURE, normalize=True)
        matrix = torch.from_numpy(np.concatenate([block.reshape(len(block), -1) for _, block in rows.blocks()]))
        one, many = _queries(1, rng), _queries(16, rng)
        read = "one read of the matrix"
        figures = [paired("exact top 100, one query", lambda: exact.top(one, K), read, matrix.sum, "<= 1.6", 11)]
        batch = paired("exact top 100, each of 16 queries", lambda: exact.top(many, K), read, matrix.sum, runs=11)
        figures.append(Figure(batch.what, batch.value / 16, "s", read, batch.reference, batch.ratio / 16, "<= 0.6"))
        figures.append(
            Figure(
                "the paper's exact search (another machine)",
                PAPER_SECONDS,
                "s",
                "ours",
                figures[0].value,
                PAPER_SECONDS / figures[0].value,
            )
        )
        small = _store(Path(folder), "int8", rng)
        figures.append(
            Figure(
                "bytes an item, int8", small.row_bytes, "B", "float32", rows.row_bytes, small.row_bytes / rows.row_bytes
            )
        )
        reduced = ExactSearch(small, FEATURE, normalize=True)
        what = "exact top 100, one query, int8 rows"
        figures.append(paired(what, lambda: reduced.top(one, K), read, matrix.sum, "<= 0.7", 11))
        batch = paired("exact top 100, each of 16, int8", lambda: reduced.top(many, K), read, matrix.sum, runs=11)
        figures.append(Figure(batch.what, batch.value / 16, "s", read, batch.reference, batch.ratio / 16, "<= 0.3"))
        figures += _one_bit(matrix, one, exact)
    return figures


def _one_bit(matrix: torch.Tensor, query: QueryFeatures, exact: ExactSearch) -> list[Figure]:
    """Faiss' RaBitQ, one bit a number: size and time of the search alone."""
    import faiss

    index = faiss.index_factory(matrix.shape[1], "RaBitQ", faiss.METRIC_INNER_PRODUCT)
    index.train(matrix.numpy())
    index.add(matrix.numpy())
    size = len(faiss.serialize_index(index))
    vector = query[FEATURE].rows.reshape(1, -1)
    times = [seconds(lambda: index.search(vector, K)) for _ in range(7)]
    whole = [seconds(lambda: exact.top(query, K)) for _ in range(7)]
    mine, theirs = statistics.median(times), statistics.median(whole)
    return [
        Figure("size of the 1-bit index", size, "B", "float32 rows", matrix.nbytes, size / matrix.nbytes),
        Figure("top 100 in the 1-bit index", mine, "s", "exact", theirs, mine / theirs),
    ]


def _store(folder: Path, dtype: RowType, rng: np.random.Generator) -> StoredRows:
    store = FeatureStore(folder, {"benchmark": "search", "dtype": dtype})
    for unit in units(ITEMS):
        count = unit.last - unit.first
        rows = rng.standard_normal((count, STEPS, LENGTH), np.float32) / np.float32(LENGTH**0.5)
        arrays = encode_rows(rows, dtype) | {"norms": np.ones((count, STEPS), np.float32)}
        store.write(unit, arrays, Timing([0.0] * count, 1))
    return StoredRows(StoredShards(store, Unit(0, ITEMS)), None, {"": LENGTH})


def _queries(count: int, rng: np.random.Generator) -> QueryFeatures:
    rows = rng.standard_normal((count, STEPS, LENGTH), np.float32) / np.float32(LENGTH**0.5)
    return QueryFeatures(np.arange(count), {FEATURE: QueryRows(rows, np.ones((count, STEPS), np.float32))})
