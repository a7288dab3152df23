from itertools import pairwise

import numpy as np
import pytest

import attrbench.search.faiss_index as module
from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.method import StateSize
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import QueryRows
from attrbench.search.exact import ExactSearch
from attrbench.search.faiss_index import FaissSearch
from attrbench.store.encoding import encode_rows
from attrbench.store.shards import FeatureStore, Timing, Unit, units
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards

FEATURE = GradientRows(source=GradientSource(), sketch=None)
N, T, V, M, K = 600, 2, 64, 20, 10
APPROXIMATE = ["SQ8", "SQ4", "PQ8x4", "PQ16x4fs", "IVF8,Flat", "IVF8,SQ8", "HNSW8", "RaBitQ", "IVF8,RaBitQ"]


def clustered(count, steps, width, clusters, seed, spread=0.7):
    """Unit-norm rows around a few centers, and norms."""
    centers = np.random.default_rng(99).normal(size=(clusters, steps, width))
    rng = np.random.default_rng(seed)
    values = centers[rng.integers(0, clusters, count)] + spread * rng.normal(size=(count, steps, width))
    values /= np.linalg.norm(values, axis=2, keepdims=True)
    return values.astype("f4"), rng.uniform(0.5, 3, (count, steps)).astype("f4")


class Watched(StoredRows):
    """Notes which items are taken."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.taken = []

    def take(self, items):
        self.taken.append(items.tolist())
        return super().take(items)


def stored(folder, values, norms, dtype="float32"):
    store = FeatureStore(folder / "rows", {"dtype": dtype, "shape": values.shape})
    for unit in units(len(values)):
        part = slice(unit.first, unit.last)
        arrays = encode_rows(values[part], dtype) | {"norms": norms[part]}
        store.write(unit, arrays, Timing([0.0] * (unit.last - unit.first), 1))
    return Watched(StoredShards(store, Unit(0, len(values))), None, {"": values.shape[2]})


def asked(values, norms):
    return QueryFeatures(np.arange(len(values)), {FEATURE: QueryRows(values, norms)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Keeps rows and indexes for all tests here."""
    return tmp_path_factory.mktemp("rerank")


@pytest.fixture(scope="module")
def rows(folder):
    return stored(folder, *clustered(N, T, V, 12, seed=0))


@pytest.fixture(scope="module")
def query():
    return asked(*clustered(M, T, V, 12, seed=1))


@pytest.fixture
def search(rows, folder):
    def make(index, rerank, normalize=True, nprobe=None):
        return FaissSearch(rows, FEATURE, normalize, index, nprobe, rerank, folder, "key")

    return make


def nprobe_of(index, cells):
    return cells if index.startswith("IVF") else None


def recall(ranking, exact):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(ranking.ids, exact.ids, strict=True)])


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("index", ["Flat", *(index for index in APPROXIMATE if index != "HNSW8")])
def test_with_every_item_a_candidate_the_ranking_is_exact(search, query, index, normalize):
    found = search(index, N // K, normalize, nprobe_of(index, 8))
    exact, ranking = found.exact().top(query, K), found.top(query, K)
    np.testing.assert_array_equal(ranking.ids, exact.ids)
    np.testing.assert_allclose(ranking.scores, exact.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("index", APPROXIMATE)
def test_scores_are_exact_and_sorted_and_recall_only_gains(search, rows, query, index, normalize):
    everything = ExactSearch(rows, FEATURE, normalize).scores(query)
    exact = ExactSearch(rows, FEATURE, normalize).top(query, K)
    before = recall(search(index, 0, normalize, nprobe_of(index, 3)).top(query, K), exact)
    for rerank in (1, 2, 5):
        ranking = search(index, rerank, normalize, nprobe_of(index, 3)).top(query, K)
        assert (ranking.ids.dtype, ranking.scores.dtype) == (np.int64, np.float32)
        assert ranking.ids.shape == ranking.scores.shape == (M, K)
        assert (ranking.ids >= 0).all()
        assert all(len(set(row)) == K for row in ranking.ids.tolist())
        np.testing.assert_allclose(
            ranking.scores, np.take_along_axis(everything, ranking.ids, axis=1), rtol=1e-5, atol=1e-5
        )
        assert (np.diff(ranking.scores, axis=1) <= 0).all()
        after = recall(ranking, exact)
        assert after >= before
        before = after


def test_without_reranking_the_scores_are_those_of_the_index(search, query):
    ranking = search("SQ4", 0).top(query, K)
    exact = np.take_along_axis(search("SQ4", 0).exact().scores(query), ranking.ids, axis=1)
    assert np.abs(ranking.scores - exact).max() > 1e-3


@pytest.mark.parametrize("rerank", [1, 3])
def test_items_beyond_those_that_the_index_finds_are_minus_one(search, query, rows, rerank):
    """One cell of eight holds about 75 items."""
    k = 200
    ranking = search("IVF8,Flat", rerank, nprobe=1).top(query, k)
    everything = ExactSearch(rows, FEATURE, True).scores(query)
    plain = search("IVF8,Flat", 0, nprobe=1).top(query, k)
    for q in range(M):
        found = ranking.ids[q] >= 0
        assert 0 < found.sum() < k
        assert (np.diff(found.astype(int)) <= 0).all()
        assert set(ranking.ids[q, found]) == set(plain.ids[q][plain.ids[q] >= 0])
        assert (ranking.ids[q, ~found] == -1).all() and (ranking.scores[q, ~found] == -np.inf).all()
        np.testing.assert_allclose(ranking.scores[q, found], everything[q, ranking.ids[q, found]], atol=1e-5)


def test_query_for_which_the_index_finds_nothing_gets_minus_one_throughout(search, query, monkeypatch):
    found = search("Flat", 2)

    class Empty:
        def search(self, vectors, k):
            return np.full((len(vectors), k), -np.inf, np.float32), np.full((len(vectors), k), -1, np.int64)

    monkeypatch.setattr(found, "_index", Empty())
    ranking = found.top(query, K)
    assert (ranking.ids == -1).all() and (ranking.scores == -np.inf).all()


@pytest.mark.parametrize("rerank", [0, 1, 10, 1000])
def test_search_returns_no_more_than_there_is(tmp_path, query, rerank):
    few = stored(tmp_path, *clustered(7, T, V, 3, seed=2))
    ranking = FaissSearch(few, FEATURE, True, "Flat", None, rerank, tmp_path, "key").top(query, 50)
    assert ranking.ids.shape == (M, 7)
    assert all(sorted(row) == list(range(7)) for row in ranking.ids.tolist())


@pytest.mark.parametrize("index", ["Flat", "SQ8", "IVF8,Flat"])
def test_ranking_of_a_query_does_not_depend_on_the_other_queries(search, query, index):
    found = search(index, 3)
    together = found.top(query, K)
    for q in range(M):
        alone = found.top(query.query(q), K)
        np.testing.assert_array_equal(alone.ids[0], together.ids[q])


@pytest.mark.parametrize("normalize", [True, False])
def test_ties_go_to_the_smaller_index(tmp_path, normalize):
    """Rows of whole numbers, so that equal rows have equal scores in any order of summation."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(-3, 4, (5, 1, 8)).astype("f4")
    values = kinds[rng.integers(0, 5, 60)]
    rows = stored(tmp_path, values, np.full((60, 1), 2, np.float32))
    query = asked(rng.integers(-3, 4, (6, 1, 8)).astype("f4"), np.ones((6, 1), np.float32))
    ranking = FaissSearch(rows, FEATURE, normalize, "Flat", None, 60, tmp_path, "key").top(query, 30)
    scores = np.einsum("itv,qtv->qi", values, query[FEATURE].rows) * (1 if normalize else 2)
    np.testing.assert_array_equal(ranking.ids, np.argsort(-scores, axis=1, kind="stable")[:, :30])
    np.testing.assert_array_equal(ranking.scores, -np.sort(-scores, axis=1)[:, :30])


def test_rows_of_fewer_bits_are_scored_as_they_are_stored(tmp_path, query):
    rows = stored(tmp_path, *clustered(N, T, V, 12, seed=0), dtype="int8")
    found = FaissSearch(rows, FEATURE, False, "SQ8", None, 5, tmp_path, "key")
    ranking, everything = found.top(query, K), found.exact().scores(query)
    np.testing.assert_allclose(
        ranking.scores, np.take_along_axis(everything, ranking.ids, axis=1), rtol=1e-5, atol=1e-5
    )
    file = sum(path.stat().st_size for path in tmp_path.glob("*.bin"))
    assert found.size() == StateSize(rows=N * (T * V + 4 * T + 4 * T), index=file)


def test_reranking_needs_the_rows_and_trusting_the_index_does_not(search):
    assert search("SQ8", 0).size().rows == 0
    assert search("SQ8", 2).size().rows == 4 * N * T * V
    assert search("SQ8", 2, normalize=False).size().rows == 4 * N * (T * V + T)
    assert search("SQ8", 2).size().index == search("SQ8", 0).size().index > 0


def test_reranking_uses_the_index_that_was_built_without(search, folder, query):
    search("PQ8x4", 0)
    files = {path: path.stat().st_mtime_ns for path in folder.glob("*.bin")}
    search("PQ8x4", 5).top(query, K)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.bin")} == files


def test_only_the_candidates_are_read(search, rows, query):
    found = search("SQ8", 3)
    rows.taken.clear()
    found.top(query, K)
    assert [len(items) for items in rows.taken] == [3 * K] * M
    rows.taken.clear()
    search("SQ8", 0).top(query, K)
    assert rows.taken == []


# --- one bit a number


def has_rabitq():
    import faiss

    try:
        faiss.index_factory(8, "RaBitQ", faiss.METRIC_INNER_PRODUCT)
    except RuntimeError:
        return False
    return True


@pytest.mark.skipif(not has_rabitq(), reason="this Faiss has no RaBitQ")
@pytest.mark.parametrize("normalize", [True, False])
def test_index_of_one_bit_a_number_with_reranking_finds_nearly_all_in_a_32nd_of_the_size(tmp_path, normalize):
    count, width = 1500, 2048
    rows = stored(tmp_path, *clustered(count, 1, width, 15, seed=0))
    query = asked(*clustered(30, 1, width, 15, seed=1))
    found = FaissSearch(rows, FEATURE, normalize, "RaBitQ", None, 10, tmp_path, "key")
    exact = found.exact().top(query, 10)
    assert recall(found.top(query, 10), exact) >= 0.95
    assert (
        recall(FaissSearch(rows, FEATURE, normalize, "RaBitQ", None, 0, tmp_path, "key").top(query, 10), exact) < 0.95
    )
    assert 28 < 4 * count * width / found.size().index < 33


# --- training


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("most", [1, 50, 100, N - 1, N, 10 * N])
def test_training_takes_no_more_rows_than_fit_evenly_spaced(tmp_path, monkeypatch, query, most, normalize):
    monkeypatch.setattr(module, "TRAINING_BYTES", 4 * T * V * most + 3)
    rows = stored(tmp_path, *clustered(N, T, V, 12, seed=0))
    trained = []
    real = FaissSearch._training_vectors
    monkeypatch.setattr(FaissSearch, "_training_vectors", lambda self: trained.append(real(self)) or trained[0])
    found = FaissSearch(rows, FEATURE, normalize, "SQ8", None, N, tmp_path, "key")
    (items,), (vectors,) = rows.taken, trained
    assert 0 < len(items) <= most
    assert len(items) > min(most, N) / 2
    assert len({b - a for a, b in pairwise(items)}) <= 1
    whole = ExactSearch(rows, FEATURE, normalize)._rows.take(np.array(items))
    expected = whole if normalize else whole * rows.norms[items][:, :, None]
    np.testing.assert_array_equal(vectors, expected.reshape(len(items), -1))
    np.testing.assert_array_equal(found.top(query, K).ids, found.exact().top(query, K).ids)


def test_index_that_needs_no_training_takes_no_rows_for_it(tmp_path):
    rows = stored(tmp_path, *clustered(50, T, V, 3, seed=0))
    FaissSearch(rows, FEATURE, True, "Flat", None, 0, tmp_path, "key")
    assert rows.taken == []
