"""int8 rows are multiplied as integers: as exact as float32, whatever the shapes, with the same items at the top."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.gradient_source import GradientSource, Sketch
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import QueryRows
from attrbench.search.exact import ExactSearch
from attrbench.store.encoding import Codes, decode_rows, encode_rows

FEATURE = GradientRows(source=GradientSource(), sketch=Sketch(length=8))


class Int8Rows:
    """int8 rows in memory, in blocks, as the store gives them."""

    def __init__(self, values, norms):
        self.arrays, self.norms = encode_rows(values, "int8"), norms
        self.count = len(values)

    def blocks(self):
        for first in range(0, self.count, 16):
            yield first, decode_rows({name: array[first : first + 16] for name, array in self.arrays.items()})

    def codes(self):
        rows, scales = self.arrays["rows"], self.arrays["scales"]
        return [(a, Codes(rows[a : a + 16], scales[a : a + 16])) for a in range(0, self.count, 16)]


def made(count, steps, width, queries, seed):
    rng = np.random.default_rng(seed)
    rows = Int8Rows(
        rng.standard_normal((count, steps, width)).astype("f4"), rng.uniform(0, 3, (count, steps)).astype("f4")
    )
    asked = rng.standard_normal((queries, steps, width)).astype("f4") * 10.0 ** rng.integers(-8, 8)
    return rows, QueryFeatures(
        np.arange(queries), {FEATURE: QueryRows(asked.astype("f4"), np.ones((queries, steps), "f4"))}
    )


def decoding(rows):
    """The same rows for those who only know decoded ones."""
    rows.codes = lambda: None
    return rows


def exactly(rows, query, normalize):
    decoded = np.concatenate([block for _, block in rows.blocks()]).astype("f8")
    if not normalize:
        decoded *= rows.norms[:, :, None]
    asked = query[FEATURE]
    return np.einsum("mtv,ntv->mn", (asked.rows if normalize else asked.raw).astype("f8"), decoded)


@given(
    count=st.integers(1, 40),
    steps=st.integers(1, 3),
    width=st.sampled_from([1, 3, 16, 64, 1008, 1024, 1025, 1040, 2512]),
    queries=st.integers(1, 35),
    normalize=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_scores_are_as_exact_as_float32(count, steps, width, queries, normalize, seed):
    rows, query = made(count, steps, width, queries, seed)
    found, expected = ExactSearch(rows, FEATURE, normalize).scores(query), exactly(rows, query, normalize)
    size = (
        np.abs(expected).max(axis=1, keepdims=True)
        + np.linalg.norm(query[FEATURE].rows.reshape(queries, -1), axis=1)[:, None]
    )
    assert (np.abs(found - expected) / size).max() < 3e-6


def test_integers_and_decoded_rows_put_the_same_items_first():
    rows, query = made(500, 2, 2048, 3, 0)
    integers = ExactSearch(rows, FEATURE, True).top(query, 100)
    decoded = ExactSearch(decoding(rows), FEATURE, True).top(query, 100)
    assert np.array_equal(integers.ids, decoded.ids)
    np.testing.assert_allclose(integers.scores, decoded.scores, rtol=1e-5)


def test_integers_round_less_than_float32():
    rows, query = made(400, 4, 4096, 2, 1)
    expected = exactly(rows, query, True)
    integers = ExactSearch(rows, FEATURE, True).scores(query)
    decoded = ExactSearch(decoding(rows), FEATURE, True).scores(query)
    errors = [np.abs(found - expected).max() for found in (integers, decoded)]
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("queries", [1, 3, 33])
def test_scores_are_the_same_on_any_number_of_threads(queries, monkeypatch):
    rows, query = made(300, 2, 1040, queries, 2)
    monkeypatch.setattr("attrbench.search.exact.PRODUCTS", 64)
    before = torch.get_num_threads()
    try:
        found = [torch.set_num_threads(count) or ExactSearch(rows, FEATURE, True).scores(query) for count in (1, 2, 5)]
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_zero_and_infinite_queries_give_what_decoded_rows_give():
    rows, query = made(20, 2, 64, 2, 0)
    query[FEATURE].rows[0] = 0
    assert np.array_equal(ExactSearch(rows, FEATURE, True).scores(query)[0], np.zeros(20, "f4"))
    query[FEATURE].rows[1, 0, 0] = np.inf
    assert not np.isfinite(ExactSearch(rows, FEATURE, True).scores(query)[1]).any()


def test_int8_rows_are_not_decoded(monkeypatch):
    rows, query = made(10, 1, 16, 1, 0)
    monkeypatch.setattr(rows, "blocks", lambda: pytest.fail("decoded"))
    assert ExactSearch(rows, FEATURE, True).scores(query).shape == (1, 10)
