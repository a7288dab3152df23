import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.errors import AttrbenchError
from attrbench.store.checksums import seal_path
from attrbench.store.shards import SHARD_BYTES, SHARD_ITEMS, FeatureStore, Timing, Unit, shard_items, units
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards

DESCRIPTION = {"feature": "rows", "split": "train"}
UNIT = Unit(4, 7)
TIMING = Timing([0.25, 0.5, 0.25], 2, [(5, 999)], 0.125)


def arrays(items=3, seed=0):
    rng = np.random.default_rng(seed)
    return {"rows": rng.normal(size=(items, 2, 4)).astype("f4"), "norms": rng.random((items, 2)).astype("f4")}


@pytest.fixture
def store(tmp_path):
    """One shard is written; what is read back is read by another store, as another process would."""
    store = FeatureStore(tmp_path, DESCRIPTION)
    store.write(UNIT, arrays(), TIMING)
    return store


def fresh(store):
    return FeatureStore(store.folder.parent.parent, DESCRIPTION)


def sidecar_path(store):
    return seal_path(store.path(UNIT))


def test_shard_is_missing_until_it_is_written(tmp_path):
    store = FeatureStore(tmp_path, DESCRIPTION)
    assert store.state(UNIT) == "missing"
    assert store.needs(UNIT)
    store.write(UNIT, arrays(), TIMING)
    assert store.state(UNIT) == fresh(store).state(UNIT) == "done"
    assert not fresh(store).needs(UNIT)
    assert store.state(Unit(7, 9)) == "missing"


def test_what_is_read_is_what_was_written(store):
    read = fresh(store).read(UNIT)
    assert read.keys() == arrays().keys()
    for name, written in arrays().items():
        np.testing.assert_array_equal(read[name], written)
    sidecar = fresh(store).sidecar(UNIT)
    assert (sidecar.rows, sidecar.seconds, sidecar.item_seconds) == (3, 1.0, [0.25, 0.5, 0.25])
    assert (sidecar.features_in_pass, sidecar.nonfinite, sidecar.row_error) == (2, [(1, 999)], 0.125)
    assert sidecar.bytes == store.path(UNIT).stat().st_size


def test_equal_arrays_give_equal_bytes(store, tmp_path):
    other = FeatureStore(tmp_path / "other", DESCRIPTION)
    transposed = {name: np.asfortranarray(array) for name, array in arrays().items()}
    other.write(UNIT, transposed, TIMING)
    assert other.path(UNIT).read_bytes() == store.path(UNIT).read_bytes()


def test_truncated_shard_is_damaged(store, caplog):
    path = store.path(UNIT)
    path.write_bytes(path.read_bytes()[:-1])
    assert fresh(store).state(UNIT) == "damaged"
    assert fresh(store).needs(UNIT)
    assert str(path) in caplog.text


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_any_flipped_bit_is_damage(tmp_path_factory, position, bit):
    store = FeatureStore(tmp_path_factory.mktemp("flip"), DESCRIPTION)
    store.write(UNIT, arrays(), TIMING)
    data = bytearray(store.path(UNIT).read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    store.path(UNIT).write_bytes(data)
    assert fresh(store).state(UNIT) == "damaged"


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"rows": 3}', '{"rows": "x', "\xff"])
def test_sidecar_that_cannot_be_read_is_damage(store, text):
    sidecar_path(store).write_text(text, encoding="latin-1")
    assert fresh(store).state(UNIT) == "damaged"


def test_kill_between_data_and_sidecar_leaves_the_shard_missing(store):
    sidecar_path(store).unlink()
    assert fresh(store).state(UNIT) == "missing"


def test_sidecar_without_data_leaves_the_shard_missing(store):
    store.path(UNIT).unlink()
    assert fresh(store).state(UNIT) == "missing"


@pytest.mark.parametrize("left", [0, 1, 2])
def test_kill_while_a_shard_is_written_again_never_leaves_a_wrong_one_done(store, left, monkeypatch):
    """Dies after `left` of the renames of a second write with other numbers."""
    real = Path.replace
    done = []

    def dying(path, target):
        if len(done) == left:
            raise KeyboardInterrupt
        done.append(path)
        return real(path, target)

    monkeypatch.setattr(Path, "replace", dying)
    second = fresh(store)
    if left < 2:
        with pytest.raises(KeyboardInterrupt):
            second.write(UNIT, arrays(seed=1), TIMING)
        assert fresh(store).state(UNIT) == "missing"
    else:
        second.write(UNIT, arrays(seed=1), TIMING)
        np.testing.assert_array_equal(fresh(store).read(UNIT)["rows"], arrays(seed=1)["rows"])


def test_damaged_shard_can_be_written_again(store):
    store.path(UNIT).write_bytes(b"x")
    again = fresh(store)
    assert again.needs(UNIT)
    again.write(UNIT, arrays(), TIMING)
    assert fresh(store).state(UNIT) == "done"


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_shard_that_is_not_done_is_not_read(store, harm):
    if harm == "missing":
        store.path(UNIT).unlink()
    else:
        store.path(UNIT).write_bytes(b"x" * 10)
    with pytest.raises(AttrbenchError, match=store.path(UNIT).name):
        fresh(store).read(UNIT)


def test_arrays_are_memory_maps_that_cannot_be_written(store):
    for array in fresh(store).read(UNIT).values():
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    store = FeatureStore(tmp_path / "file", DESCRIPTION)
    assert store.state(UNIT) == "missing"
    with pytest.raises(AttrbenchError, match=str(store.folder)) as caught:
        store.write(UNIT, arrays(), TIMING)
    assert "\n" not in str(caught.value)


def test_no_temporary_file_is_left(store):
    assert sorted(p.suffix for p in store.folder.iterdir()) == [".json", ".json", ".safetensors"]


def test_different_descriptions_have_different_folders(tmp_path):
    descriptions = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, {"a": 1, "b": None}, {}]
    folders = {FeatureStore(tmp_path, d).folder for d in descriptions}
    assert len(folders) == len(descriptions)
    assert FeatureStore(tmp_path, {"a": 1, "b": 2}).folder == FeatureStore(tmp_path, {"b": 2, "a": 1}).folder


def test_description_stands_beside_the_shards(store):
    assert json.loads((store.folder / "feature.json").read_text())["description"].items() >= DESCRIPTION.items()


@given(st.integers(0, 1000), st.integers(1, 200))
@settings(max_examples=50, deadline=None)
def test_units_cover_every_item_once(count, size):
    cut = units(count, size)
    assert [item for unit in cut for item in range(unit.first, unit.last)] == list(range(count))
    assert all(0 < unit.last - unit.first <= size for unit in cut)


@given(st.integers(0, 2**40), st.sampled_from([1, 2, 16, SHARD_ITEMS]))
@settings(max_examples=100, deadline=None)
def test_shards_are_the_largest_power_of_two_that_fits(row_bytes, most):
    items = shard_items(row_bytes, most)
    assert 1 <= items <= most and items & (items - 1) == 0
    assert items == 1 or items * row_bytes <= SHARD_BYTES
    assert items == most or 2 * items * row_bytes > SHARD_BYTES


@given(st.integers(0, 5), st.integers(1, 64), st.sampled_from([1, 2, 4, 16, 64]))
@settings(max_examples=50, deadline=None)
def test_smaller_shards_divide_a_unit_and_never_cross_its_ends(number, count, size):
    unit = Unit(64 * number, 64 * number + count)
    shards = FeatureStore(Path("nowhere"), DESCRIPTION, size).shards(unit)
    assert [item for shard in shards for item in range(*shard)] == list(range(*unit))
    assert all(shard.first % size == 0 and shard.last - shard.first <= size for shard in shards)


def test_missing_shards_are_those_not_written_or_damaged(tmp_path):
    store = FeatureStore(tmp_path, DESCRIPTION, 2)
    for first in (64, 66, 70):
        store.write(Unit(first, first + 2), arrays(2), Timing([0.0, 0.0], 1))
    store.path(Unit(66, 68)).write_bytes(b"x")
    assert FeatureStore(tmp_path, DESCRIPTION, 2).missing(Unit(64, 73)) == [Unit(66, 68), Unit(68, 70), Unit(72, 73)]


def test_stored_rows_come_back_in_item_order_across_shards(tmp_path):
    store, count = FeatureStore(tmp_path, DESCRIPTION), 70
    whole = arrays(count)
    for unit in reversed(units(count)):
        part = {name: array[unit.first : unit.last] for name, array in whole.items()}
        store.write(unit, part, Timing([0.0] * (unit.last - unit.first), 1))
    rows = StoredRows(StoredShards(fresh(store), Unit(0, count)), None, {})
    assert (rows.count, rows.width) == (count, 8)
    np.testing.assert_array_equal(rows.norms, whole["norms"])
    blocks = list(rows.blocks())
    assert [first for first, _ in blocks] == [0, 64]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), whole["rows"])
