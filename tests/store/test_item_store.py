"""Rows are found by their item's key in whatever set, order or shard it stands."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.contracts.computation import Unit
from attrbench.contracts.task import Items, pixel_digest
from attrbench.errors import AttrbenchError
from attrbench.store.item_store import ItemStore
from attrbench.store.shards import Timing
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards

DESCRIPTION = {"feature": "rows"}
SHARD = 4


def number(key):
    return float(int(key, 16))


def store_of(root, keys):
    return ItemStore(root, DESCRIPTION, keys, SHARD, of="digits-mini v1 train")


def keys_of(numbers):
    return [f"{value:024x}" for value in numbers]


def fill(store, lost=()):
    """Compute what the store lacks, and return the keys in the order in which they were computed."""
    computed = []
    for unit in store.missing(Unit(0, len(store.keys))):
        keys = store.keys[unit.first : unit.last]
        rows = np.array([[[number(key)] * 2] for key in keys], np.float32)
        seconds = [number(key) for key in keys]
        nonfinite = [(item, 999) for item in range(unit.first, unit.last) if store.keys[item] in lost]
        arrays = {"rows": rows, "norms": rows[:, :, 0], "common": np.arange(3.0, dtype=np.float32)}
        store.write(unit, arrays, Timing(seconds, 1, nonfinite, shared=("common",)))
        computed += keys
    return computed


def read(store):
    return StoredShards(store, Unit(0, len(store.keys)))


def test_one_item_added_costs_its_own_row(tmp_path):
    fill(store_of(tmp_path, keys_of(range(10))))
    store = store_of(tmp_path, keys_of([0, 1, 2, 99, *range(3, 10)]))
    assert store.missing(Unit(0, 11)) == [Unit(3, 4)]
    assert fill(store) == keys_of([99])
    assert read(store).array("norms")[:, 0].tolist() == [number(key) for key in store.keys]


def test_order_subset_and_other_tasks_find_every_row(tmp_path):
    fill(store_of(tmp_path, keys_of(range(10))))
    for numbers in (range(9, -1, -1), [7, 2, 5], [3]):
        store = store_of(tmp_path, keys_of(numbers))
        assert not store.lacks(Unit(0, len(store.keys)))
        assert StoredRows(read(store), None, {}).norms[:, 0].tolist() == [float(value) for value in numbers]
        assert read(store).item_seconds().tolist() == [float(value) for value in numbers]


@settings(max_examples=60, deadline=None)
@given(sets=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=20, unique=True), min_size=1, max_size=5))
def test_any_history_of_sets_gives_each_the_rows_of_its_items(tmp_path_factory, sets):
    root, known = tmp_path_factory.mktemp("cache"), set()
    lost = set(keys_of([3, 17]))
    for numbers in sets:
        store = store_of(root, keys_of(numbers))
        computed = fill(store, lost)
        assert sorted(computed) == sorted(set(store.keys) - known)  # every row once
        known |= set(store.keys)
        for opened in (store, store_of(root, keys_of(numbers))):
            shards = read(opened)
            assert shards.array("rows")[:, 0, 0].tolist() == [number(key) for key in opened.keys]
            assert [item for item, _ in shards.nonfinite()] == [i for i, key in enumerate(opened.keys) if key in lost]
            assert all(arrays["common"].tolist() == [0, 1, 2] for _, arrays in shards.blocks())
            items = np.random.default_rng(0).permutation(len(numbers))
            rows = StoredRows(shards, None, {}).take(items)
            assert rows[:, 0, 0].tolist() == [number(opened.keys[item]) for item in items]


def test_a_damaged_shard_costs_its_own_rows_and_no_other(tmp_path, caplog):
    store = store_of(tmp_path, keys_of(range(10)))
    fill(store)
    path = store.path(Unit(4, 8))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    again = store_of(tmp_path, keys_of(range(10)))
    assert again.lacking(Unit(0, 10)) == [Unit(4, 8)]
    assert not caplog.records
    again = store_of(tmp_path, keys_of(range(10)))
    assert fill(again) == keys_of(range(4, 8))
    assert "damaged" in caplog.text
    assert read(store_of(tmp_path, keys_of(range(10)))).array("norms")[:, 0].tolist() == list(range(10))


def test_a_row_that_is_not_there_is_named_when_it_is_read(tmp_path):
    store = store_of(tmp_path, keys_of(range(3)))
    with pytest.raises(AttrbenchError, match=r"row of item 0 .* run the same command again"):
        list(read(store).blocks())


def test_what_another_process_wrote_meanwhile_is_found(tmp_path):
    reader, writer = (store_of(tmp_path, keys_of(range(6))) for _ in range(2))
    assert reader.lacks(Unit(0, 6))
    fill(store_of(tmp_path, keys_of([2])))
    fill(writer)
    assert read(reader).array("norms")[:, 0].tolist() == list(range(6))


def test_bytes_are_those_of_the_set_s_own_rows(tmp_path):
    whole = store_of(tmp_path, keys_of(range(8)))
    fill(whole)
    half = store_of(tmp_path, keys_of(range(4, 8)))
    one = store_of(tmp_path, keys_of([5]))
    assert 2 * read(half).bytes == read(whole).bytes
    assert read(one).bytes == pytest.approx(read(half).bytes / 4, abs=1)


def test_sets_are_told_apart_though_they_share_rows(tmp_path):
    one, other = store_of(tmp_path, keys_of([1, 2])), store_of(tmp_path, keys_of([2, 1]))
    assert one.folder == other.folder
    assert one.fingerprint != other.fingerprint


def items_of(images, prompts, seeds=None):
    return Items(images, [""] * len(images), prompts, "f", seeds)


def test_keys_follow_pixels_and_prompt_and_count_equal_items():
    images = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)
    images[2] = images[0]
    items = items_of(images, ["a", "b", "a", "d"])
    assert len(set(items.keys)) == 4
    again = items_of(images[[3, 2, 1]], ["d", "a", "b"])
    assert again.keys == (items.keys[3], items.keys[0], items.keys[1])  # the first of equal items has no count
    assert items_of(images[:1], ["other"]).keys[0] not in items.keys
    assert items_of(images.reshape(4, 1, 4, 3), items.prompts).keys[0] not in items.keys


def test_a_known_digest_gives_the_key_of_the_pixels():
    images = np.arange(2 * 12, dtype=np.uint8).reshape(2, 2, 2, 3)
    digests = [pixel_digest(image) for image in images]
    assert Items(images, ["", ""], ["", ""], "f", digests=digests).keys == items_of(images, ["", ""]).keys


def test_seeds_are_part_of_the_keys_along_trajectories_only():
    images = np.arange(2 * 12, dtype=np.uint8).reshape(2, 2, 2, 3)
    one, other = items_of(images, ["", ""], [1, 2]), items_of(images, ["", ""], [1, 3])
    assert one.keys == other.keys == items_of(images, ["", ""]).keys
    assert one.trajectory_keys[0] == other.trajectory_keys[0]
    assert one.trajectory_keys[1] != other.trajectory_keys[1]
