from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.method import StateSize
from attrbench.contracts.ranking import top_k
from attrbench.errors import AttrbenchError, UsageError
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import QueryRows
from attrbench.search.exact import ExactSearch
from attrbench.search.faiss_index import FaissSearch
from attrbench.search.hnsw import HNSWGraph, HNSWSearch
from attrbench.store.checksums import seal_path
from attrbench.store.encoding import decode_rows, encode_rows, row_bytes
from attrbench.store.shards import FeatureStore, Timing, Unit, units
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards

FEATURE = GradientRows(source=GradientSource(), sketch=None)
N, T, V, M = 300, 2, 8, 6


@dataclass
class FakeRows:
    """Rows in memory, handed out in blocks of 128 or as asked; counts how often they are read."""

    values: np.ndarray
    norms: np.ndarray
    reads: int = 0

    @property
    def count(self):
        return len(self.values)

    @property
    def width(self):
        return self.values.shape[1] * self.values.shape[2]

    @property
    def row_bytes(self):
        return self.values[0].nbytes

    def take(self, items):
        self.reads += 1
        return self.values[items]

    def blocks(self):
        self.reads += 1
        for first in range(0, self.count, 128):
            yield first, self.values[first : first + 128]

    def codes(self):
        return None


def unit_rows(count, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, T, V)).astype("f4")
    values /= np.linalg.norm(values, axis=2, keepdims=True)
    return values, rng.uniform(0.5, 3, (count, T)).astype("f4")


@pytest.fixture
def rows():
    return FakeRows(*unit_rows(N, 0))


@pytest.fixture
def query():
    values, norms = unit_rows(M, 1)
    return QueryFeatures(np.arange(M), {FEATURE: QueryRows(values, norms)})


def numpy_scores(rows, query, normalize):
    view = query[FEATURE]
    train, asked = rows.values.astype("f8"), view.rows.astype("f8")
    if not normalize:
        train, asked = train * rows.norms[:, :, None], asked * view.norms[:, :, None]
    return np.einsum("itv,qtv->qi", train, asked)


ANY_SCORES = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 30)),
    elements=st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 0.5, 1.0]) | st.floats(-10, 10, width=32),
)


@given(ANY_SCORES, st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_top_k_is_the_head_of_a_stable_descending_sort(scores, k):
    ids, values = top_k(scores, k)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, expected, axis=1))


def test_nan_counts_as_smaller_than_everything():
    scores = np.array([[1, np.nan, 0, 2, np.nan]], np.float32)
    assert top_k(scores, 4).ids.tolist() == [[3, 0, 2, 1]]


def test_ties_go_to_the_smaller_index():
    scores = np.array([[0, 2, 1, 2, 1, 2]], np.float32)
    assert top_k(scores, 4).ids.tolist() == [[1, 3, 5, 2]]
    assert top_k(np.zeros((1, 9), np.float32), 3).ids.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("normalize", [True, False])
def test_exact_search_is_the_inner_product_over_timesteps(rows, query, normalize):
    search = ExactSearch(rows, FEATURE, normalize)
    expected = numpy_scores(rows, query, normalize)
    np.testing.assert_allclose(search.scores(query), expected, atol=1e-5)
    ids, scores = search.top(query, 7)
    np.testing.assert_array_equal(ids, np.argsort(-expected, axis=1)[:, :7])
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :7], atol=1e-5)


def test_scores_of_a_query_do_not_depend_on_the_other_queries(rows, query):
    together = ExactSearch(rows, FEATURE, True).scores(query)
    for q in range(M):
        np.testing.assert_allclose(ExactSearch(rows, FEATURE, True).scores(query.query(q))[0], together[q], atol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_faiss_flat_is_exact(rows, query, normalize, tmp_path):
    search = FaissSearch(rows, FEATURE, normalize, "Flat", None, 0, tmp_path, "key")
    ids, scores = search.top(query, 20)
    exact = search.exact().top(query, 20)
    np.testing.assert_array_equal(ids, exact.ids)
    np.testing.assert_allclose(scores, exact.scores, atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_hnsw_that_looks_at_every_item_misses_none(rows, query, normalize, tmp_path):
    search = HNSWSearch(rows, FEATURE, normalize, HNSWGraph(), N, tmp_path, "key")
    ids, scores = search.top(query, 20)
    exact = search.exact().top(query, 20)
    np.testing.assert_array_equal(ids, exact.ids)
    np.testing.assert_allclose(scores, exact.scores, atol=1e-5)


def test_hnsw_built_twice_gives_identical_results(rows, query, tmp_path):
    graph = HNSWGraph(m=2, ef_construction=5)
    first, second = (HNSWSearch(rows, FEATURE, True, graph, 1, tmp_path / name, "key").top(query, 30) for name in "ab")
    np.testing.assert_array_equal(first.ids, second.ids)
    np.testing.assert_array_equal(first.scores, second.scores)
    exact = ExactSearch(rows, FEATURE, True).top(query, 30)
    assert not np.array_equal(first.ids, exact.ids)  # so poor a graph that another would give other results


def hnsw(rows, folder, key="key", normalize=True, seed=42):
    return HNSWSearch(rows, FEATURE, normalize, HNSWGraph(seed=seed), 50, folder, key)


def faiss(rows, folder, key="key", normalize=True, seed="Flat"):
    return FaissSearch(rows, FEATURE, normalize, str(seed), None, 0, folder, key)


@pytest.mark.parametrize("build", [hnsw, faiss])
def test_index_file_is_used_again_without_reading_the_rows(rows, query, tmp_path, build):
    first = build(rows, tmp_path)
    again = FakeRows(rows.values, rows.norms)
    second = build(again, tmp_path)
    assert again.reads == 0
    np.testing.assert_array_equal(first.top(query, 10).ids, second.top(query, 10).ids)
    assert first.size() == second.size()
    assert [path.stat().st_size for path in tmp_path.glob("*.bin")] == [first.size().index]


@pytest.mark.parametrize("build", [hnsw, faiss])
@pytest.mark.parametrize("harm", ["truncated", "flipped", "no sidecar", "half a sidecar", "another sidecar"])
def test_index_file_that_is_not_whole_is_built_again(rows, query, tmp_path, build, harm):
    whole = build(rows, tmp_path).top(query, 10)
    (path,) = tmp_path.glob("*.bin")
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "flipped":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif harm == "half a sidecar":
        seal_path(path).write_text('{"bytes": 1')
    elif harm == "another sidecar":
        seal_path(path).write_text("{}")
    else:
        seal_path(path).unlink()
    read = rows.reads
    np.testing.assert_array_equal(build(rows, tmp_path).top(query, 10).ids, whole.ids)
    assert rows.reads == read + 1


@pytest.mark.parametrize("build", [hnsw, faiss])
def test_folder_that_cannot_keep_an_index_is_named(rows, tmp_path, build):
    (tmp_path / "file").write_text("")
    with pytest.raises(AttrbenchError, match=str(tmp_path / "file")):
        build(rows, tmp_path / "file")


@pytest.mark.parametrize(
    ("build", "change"),
    [
        (hnsw, {"key": "other"}),
        (hnsw, {"normalize": False}),
        (hnsw, {"seed": 1}),
        (faiss, {"key": "other"}),
        (faiss, {"normalize": False}),
        (faiss, {"seed": "HNSW8"}),
    ],
)
def test_index_of_other_rows_or_settings_is_not_used(rows, tmp_path, build, change):
    build(rows, tmp_path)
    read = rows.reads
    build(rows, tmp_path, **change)
    assert rows.reads == read + 1


def test_search_returns_no_more_than_there_is(rows, query, tmp_path):
    few = FakeRows(rows.values[:5], rows.norms[:5])
    for search in (ExactSearch(few, FEATURE, True), hnsw(few, tmp_path), faiss(few, tmp_path)):
        ids, scores = search.top(query, 20)
        assert ids.shape == scores.shape == (M, 5)
        assert all(sorted(row) == [0, 1, 2, 3, 4] for row in ids.tolist())


def test_ivf_that_visits_one_cell_finds_fewer_and_says_so_by_minus_one(rows, query, tmp_path):
    one = FaissSearch(rows, FEATURE, True, "IVF16,Flat", 1, 0, tmp_path, "key").top(query, 100)
    assert (one.ids == -1).any()
    every = FaissSearch(rows, FEATURE, True, "IVF16,Flat", 16, 0, tmp_path, "key").top(query, 100)
    np.testing.assert_array_equal(every.ids, ExactSearch(rows, FEATURE, True).top(query, 100).ids)


@pytest.mark.parametrize("string", ["nonsense", "Flatt", "IVF16", "IVF99999,Flat", "PQ7"])
def test_wrong_faiss_string_is_a_usage_error_of_one_line(rows, tmp_path, string):
    with pytest.raises(UsageError) as caught:
        FaissSearch(rows, FEATURE, True, string, None, 0, tmp_path, "key")
    assert string in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nprobe_of_an_index_without_cells_is_a_usage_error(rows, tmp_path):
    with pytest.raises(UsageError, match="nprobe"):
        FaissSearch(rows, FEATURE, True, "Flat", 4, 0, tmp_path, "key")


def test_sizes_count_rows_norms_and_index_files_and_nothing_shared(rows, tmp_path):
    assert ExactSearch(rows, FEATURE, True).size() == StateSize(rows=4 * N * T * V)
    assert ExactSearch(rows, FEATURE, False).size() == StateSize(rows=4 * N * (T * V + T))
    for build in (hnsw, faiss):
        size = build(rows, tmp_path / build.__name__).size()
        (path,) = (tmp_path / build.__name__).glob("*.bin")
        assert size == StateSize(index=path.stat().st_size)


@pytest.mark.parametrize("normalize", [True, False])
def test_some_items_score_as_they_do_among_all(rows, query, normalize):
    search = ExactSearch(rows, FEATURE, normalize)
    items = np.array([7, 299, 0, 7, 130])
    for q in range(M):
        expected = numpy_scores(rows, query, normalize)[q, items]
        np.testing.assert_allclose(search.rescore(query.query(q), items), expected, atol=1e-5)


@given(
    count=st.integers(1, 20),
    steps=st.integers(1, 3),
    width=st.sampled_from([1, 8, 1024, 1100]),
    items=st.sampled_from([1, 4, 64]),
    normalize=st.booleans(),
    dtype=st.sampled_from(["int8", "int8", "float16", "bfloat16", "float32"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_exact_search_over_stored_rows_is_numpy_on_the_decoded_ones(
    tmp_path_factory, count, steps, width, items, normalize, dtype, seed
):
    rng = np.random.default_rng(seed)
    values, norms = rng.normal(size=(count, steps, width)).astype("f4"), rng.uniform(0, 3, (count, steps)).astype("f4")
    values /= np.linalg.norm(values, axis=2, keepdims=True)
    values[rng.random((count, steps)) < 0.1] = 0
    store = FeatureStore(tmp_path_factory.mktemp("stored"), {"rows": dtype}, items)
    for unit in units(count, items):
        part = slice(unit.first, unit.last)
        timing = Timing([0.0] * (unit.last - unit.first), 1)
        store.write(unit, encode_rows(values[part], dtype) | {"norms": norms[part]}, timing)
    decoded = FakeRows(decode_rows(encode_rows(values, dtype)), norms)
    view = QueryRows(rng.normal(size=(3, steps, width)).astype("f4"), np.ones((3, steps), "f4") * 2)
    query = QueryFeatures(np.arange(3), {FEATURE: view})
    stored = StoredRows(StoredShards(store, Unit(0, count)), None, {"": width})
    search = ExactSearch(stored, FEATURE, normalize)
    expected = numpy_scores(decoded, query, normalize)
    np.testing.assert_allclose(search.scores(query), expected, rtol=1e-4, atol=1e-3)
    chosen = rng.integers(0, count, 7)
    np.testing.assert_allclose(search.rescore(query.query(1), chosen), expected[1, chosen], rtol=1e-4, atol=1e-3)
    row_size = row_bytes(dtype, steps, width) + (0 if normalize else 4 * steps)
    assert search.size().rows == count * row_size
