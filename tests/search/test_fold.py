"""Folded rows are shorter sketches of the same gradients, by which an index finds candidates."""

import numpy as np
import pytest
import torch

from attrbench.errors import UsageError
from attrbench.evaluation.requests import request_methods
from attrbench.gradients.sketching.rotation import sketch
from attrbench.plugins.registry import registry
from attrbench.search.exact import ExactSearch
from attrbench.search.faiss_index import FaissSearch, make_index, split_fold
from attrbench.search.vectors import flat
from tests.search.test_rerank import FEATURE, M, T, V, asked, clustered, recall, stored

COUNT, K = 3_000, 10


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("fold"), *clustered(COUNT, T, V, 40, seed=0, spread=0.3))


@pytest.fixture(scope="module")
def query():
    return asked(*clustered(M, T, V, 40, seed=1, spread=0.3))


def search(rows, folder, index, rerank=0, normalize=True, nprobe=None):
    return FaissSearch(rows, FEATURE, normalize, index, nprobe, rerank, folder, "key")


@pytest.mark.parametrize("length", [20_000, 300_000])
def test_a_folded_sketch_estimates_inner_products_as_one_of_its_length(length):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, length)) * rng.exponential(size=length)  # coordinates of very different size
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sketches = sketch(torch.from_numpy(vectors), 4096, 1).numpy()[:, None]
    for fold in (8, 16):
        folded = flat(sketches, fold)
        assert folded.shape == (40, 4096 // fold)
        true = (vectors @ vectors.T)[np.triu_indices(40, 1)]
        errors = (folded @ folded.T)[np.triu_indices(40, 1)] - true
        expected = np.sqrt((1 + true**2) * fold / 4096)
        assert 0.85 < np.sqrt(np.mean((errors / expected) ** 2)) < 1.15
        assert abs(np.mean(errors)) < 4 * np.mean(expected) / len(errors) ** 0.5


def test_each_timestep_is_folded_on_its_own():
    rows = np.arange(2 * 3 * 8, dtype=np.float32).reshape(2, 3, 8)
    assert flat(rows, 4).reshape(2, 3, 2).tolist() == [[[sum(r[0::2]), sum(r[1::2])] for r in item] for item in rows]
    np.testing.assert_array_equal(flat(rows), rows.reshape(2, 24))


@pytest.mark.parametrize("normalize", [True, False])
def test_scores_of_a_folded_index_are_products_of_folded_rows(rows, query, tmp_path, normalize):
    found = search(rows, tmp_path, "Fold8,Flat", normalize=normalize).top(query, K)
    train, asked_rows = rows.take(np.arange(COUNT)), query[FEATURE].rows
    if not normalize:
        train, asked_rows = train * rows.norms[:, :, None], query[FEATURE].raw
    products = flat(asked_rows, 8) @ flat(train, 8).T
    np.testing.assert_allclose(found.scores, -np.sort(-products, axis=1)[:, :K], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("index", ["Fold8,Flat", "Fold4,IVF16,Flat", "Fold8,RaBitQ", "Fold2,IVF16,RaBitQ"])
def test_candidates_of_a_folded_index_that_the_rows_rank_are_those_of_exact_search(rows, query, tmp_path, index):
    probed = 8 if "IVF" in index else None
    exact = ExactSearch(rows, FEATURE, True).top(query, K)
    first = recall(search(rows, tmp_path, index, 0, nprobe=probed).top(query, K), exact)
    found = search(rows, tmp_path, index, 30, nprobe=probed)
    assert recall(found.top(query, K), exact) > max(0.9, first)


def test_an_index_of_folded_rows_is_smaller_by_as_much(rows, tmp_path):
    whole, folded = (search(rows, tmp_path, index).size().index for index in ("Flat", "Fold8,Flat"))
    assert whole / folded == pytest.approx(8, rel=0.01)


def test_training_rows_are_folded_and_as_many_more_fit(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("attrbench.search.faiss_index.TRAINING_BYTES", 4 * T * V * 100)
    monkeypatch.setattr("attrbench.search.faiss_index.TOGETHER", 64)
    rows.taken.clear()
    found = search(rows, tmp_path, "Fold8,SQ8")
    assert 400 <= sum(map(len, rows.taken)) <= 800
    assert max(map(len, rows.taken)) <= 64
    items = np.concatenate(rows.taken)
    np.testing.assert_array_equal(found._training_vectors(), flat(rows.take(items), 8))


@pytest.mark.parametrize("string", ["Fold0,Flat", "Fold3,Flat", "Fold128,Flat", "Fold8", "Fold8,", "Fold8,nonsense"])
def test_a_fold_that_rows_do_not_take_is_a_usage_error_of_one_line(string):
    with pytest.raises(UsageError) as caught:
        make_index(string, T * V, T)
    assert string.partition(",")[2] in str(caught.value) and "\n" not in str(caught.value)


def test_only_a_prefix_folds():
    assert split_fold("Fold8,IVF64,Flat") == (8, "IVF64,Flat")
    assert split_fold("IVF64,Flat") == (1, "IVF64,Flat")


def test_the_option_refuses_what_does_not_divide_v_before_anything_runs():
    (method,) = request_methods(registry(), ["dmin:v=96,timesteps=2,search=faiss,index=Fold64,Flat"])
    with pytest.raises(UsageError, match="can't fold rows of 96 numbers"):
        method.method.check(100)
