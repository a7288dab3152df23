import numpy as np
import pytest

from attrbench.search import gram_blocks as gram
from attrbench.search.gram_blocks import cross_gram_blocks, gram_blocks
from attrbench.store.shards import FeatureStore, Timing, Unit, units
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards

N, T, W = 23, 3, 10
LAYERS = {"first": slice(0, 4), "second": slice(4, 10)}


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, T, W)).astype("f4"), rng.uniform(0.5, 3, (N, T)).astype("f4")


@pytest.fixture
def rows(tmp_path, values):
    store = FeatureStore(tmp_path, {"gram": "test"}, items=4)
    for unit in units(N, 4):
        part = {"rows": values[0][unit.first : unit.last], "norms": values[1][unit.first : unit.last]}
        store.write(unit, part, Timing([0.0] * (unit.last - unit.first), 1))
    return StoredRows(StoredShards(store, Unit(0, N)), None, {"": W})


@pytest.mark.parametrize("band_bytes", [1, 1000, 10**9])
@pytest.mark.parametrize("raw", [False, True])
def test_blocks_are_the_inner_products_of_all_pairs_of_rows(monkeypatch, rows, values, band_bytes, raw):
    monkeypatch.setattr(gram, "BAND_BYTES", band_bytes)
    whole = values[0].astype("f8") * (values[1][:, :, None] if raw else 1)
    found = gram_blocks(rows, LAYERS, raw)
    for name, columns in LAYERS.items():
        direct = np.einsum("itw,jtw->ij", whole[:, :, columns], whole[:, :, columns])
        np.testing.assert_allclose(found[name], direct, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found[name], found[name].T)


def test_layers_add_up_to_the_whole(rows):
    parts = gram_blocks(rows, LAYERS)
    np.testing.assert_allclose(sum(parts.values()), gram_blocks(rows)[""], rtol=1e-5, atol=1e-5)


def test_cross_blocks_of_the_rows_themselves_are_the_blocks(rows, values):
    found = cross_gram_blocks(values[0], rows, LAYERS)
    for name, block in gram_blocks(rows, LAYERS).items():
        np.testing.assert_allclose(found[name], block, rtol=1e-5, atol=1e-5)
