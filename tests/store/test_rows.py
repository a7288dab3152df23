import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.errors import AttrbenchError
from attrbench.store.encoding import decode_rows, encode_rows, row_bytes
from attrbench.store.shards import FeatureStore, Timing, Unit, units
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards

DTYPES = ["float32", "float16", "bfloat16", "int8"]
COUNT, T, V, SHARD = 21, 2, 1500, 4


def written(count=COUNT, width=V, seed=0):
    """([n, T, w] unit rows, [n, T] norms)."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, T, width)).astype("f4")
    return rows / np.linalg.norm(rows, axis=2, keepdims=True), rng.uniform(0.5, 3, (count, T)).astype("f4")


def stored(folder, rows, norms, dtype="float32", items=SHARD):
    """`StoredRows` of these, read by another store than wrote them."""
    description = {"dtype": dtype, "items": items, "shape": rows.shape}
    store = FeatureStore(folder, description, items)
    for unit in units(len(rows), items):
        part = slice(unit.first, unit.last)
        arrays = encode_rows(rows[part], dtype) | {"norms": norms[part]}
        store.write(unit, arrays, Timing([0.0] * (unit.last - unit.first), 1))
    return StoredRows(StoredShards(FeatureStore(folder, description, items), Unit(0, len(rows))), None, {})


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """{dtype: (rows as decoded at once, the stored rows)}."""
    rows, norms = written()
    folder = tmp_path_factory.mktemp("rows")
    return {
        dtype: (decode_rows(encode_rows(rows, dtype)), stored(folder, rows, norms, dtype), norms) for dtype in DTYPES
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_count_width_and_norms_are_those_written(views, dtype):
    _, rows, norms = views[dtype]
    assert (rows.count, rows.width) == (COUNT, T * V)
    assert rows.norms.dtype == np.float32
    np.testing.assert_array_equal(rows.norms, norms)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_are_all_rows_in_order(views, dtype):
    whole, rows, _ = views[dtype]
    for _ in range(2):
        blocks = list(rows.blocks())
        assert [first for first, _ in blocks] == [0, 4, 8, 12, 16, 20]
        assert [len(block) for _, block in blocks] == [4, 4, 4, 4, 4, 1]
        assert {block.dtype for _, block in blocks} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), whole)


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, COUNT - 1), max_size=30))
@settings(max_examples=80, deadline=None)
def test_taken_rows_are_those_of_the_whole_in_any_order_and_as_often_as_asked(views, dtype, items):
    whole, rows, _ = views[dtype]
    items = np.array(items, np.int64)
    taken = rows.take(items)
    assert (taken.dtype, taken.shape) == (np.float32, (len(items), T, V))
    np.testing.assert_array_equal(taken, whole[items])


@pytest.mark.parametrize("dtype", DTYPES)
def test_taken_rows_may_be_written_without_harm(views, dtype):
    whole, rows, _ = views[dtype]
    items = np.arange(COUNT)
    rows.take(items)[:] = 7
    np.testing.assert_array_equal(rows.take(items), whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_of_a_row_are_those_on_disk_without_its_norms(views, dtype):
    rows = views[dtype][1]
    assert (
        rows.row_bytes
        == row_bytes(dtype, T, V)
        == {"float32": 4, "float16": 2, "bfloat16": 2}.get(dtype, 1) * (T * V) + (2 * 4 * T if dtype == "int8" else 0)
    )


@pytest.mark.parametrize("items", [1, 2, 8, 64])
@pytest.mark.parametrize("count", [1, 8, 9])
def test_rows_do_not_depend_on_the_size_of_the_shards(tmp_path, items, count):
    rows, norms = written(count, 7)
    view = stored(tmp_path, rows, norms, "int8", items)
    whole = decode_rows(encode_rows(rows, "int8"))
    np.testing.assert_array_equal(np.concatenate([block for _, block in view.blocks()]), whole)
    np.testing.assert_array_equal(view.take(np.arange(count)[::-1]), whole[::-1])
    np.testing.assert_array_equal(view.norms, norms)


def test_rows_of_which_a_shard_is_missing_are_not_read(tmp_path):
    rows, norms = written(8, 7)
    stored(tmp_path, rows, norms)
    lost = next(tmp_path.rglob("items-00000004-*.safetensors"))
    lost.unlink()
    description = {"dtype": "float32", "items": SHARD, "shape": rows.shape}
    with pytest.raises(AttrbenchError, match=lost.name):
        StoredRows(StoredShards(FeatureStore(tmp_path, description, SHARD), Unit(0, 8)), None, {})
