"""A store opens without reading shards that were found whole before, and no changed byte gets into a result."""

import os
import shutil

import numpy as np
import pytest

from attrbench.errors import Damaged
from attrbench.store import checked_files, checksums, read_only, shards
from attrbench.store.cache_index import index_cache
from attrbench.store.checksums import seal_path
from attrbench.store.item_store import ItemStore
from attrbench.store.shards import FeatureStore, Timing, Unit
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards
from tests.shard_files import leave_no_trace

ITEMS, SHARD = 12, 4
KEYS = [f"{number:024x}" for number in range(ITEMS)]
ALL = Unit(0, ITEMS)
KINDS = {
    "rows": lambda root, keys=KEYS: ItemStore(root, {"feature": "rows"}, keys, SHARD),
    "set": lambda root, keys=KEYS: FeatureStore(root, {"feature": "set"}, SHARD),
}


@pytest.fixture(autouse=True)
def keeps_all(monkeypatch):
    """Lets states be kept however little there is to read."""
    monkeypatch.setattr(checked_files.CheckedFiles.keep, "__defaults__", (0,))


@pytest.fixture(params=KINDS)
def store_of(request):
    return KINDS[request.param]


@pytest.fixture
def read(monkeypatch):
    """Names of the files whose checksum was computed to compare it."""
    names = []
    monkeypatch.setattr(
        checksums, "measure", lambda data, real=checksums.measure: names.append(data.name) or real(data)
    )
    return names


def filled(store):
    """Compute what the store lacks, and open it as a process does that wants to read rows."""
    for unit in store.missing(ALL):
        rows = np.arange(unit.first, unit.last, dtype=np.float32)[:, None, None].repeat(8, axis=2)
        store.write(unit, {"rows": rows, "norms": rows[:, :, 0]}, Timing([0.0] * len(rows), 1))
    return opened(store)


def opened(store):
    return StoredShards(store, ALL).ranges and store


def values(store, items=ALL):
    return StoredRows(StoredShards(store, items), None, {}).take(np.arange(items.last))[:, 0, 0].tolist()


def path_of(store, number=1):
    return store.path(Unit(SHARD * number, SHARD * (number + 1)))


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_opening_reads_nothing_and_using_rows_reads_their_shards_once(tmp_path, store_of, read):
    filled(store_of(tmp_path))
    read.clear()
    store = opened(store_of(tmp_path))
    assert not store.lacks(ALL)
    rows = StoredRows(StoredShards(store, ALL), None, {})
    first = [name for name in read if name.endswith(".safetensors")]
    assert first == [path_of(store, 0).name]  # for the rows' shape
    for _ in range(2):
        assert rows.take(np.array([9, 8]))[:, 0, 0].tolist() == [9, 8]
    assert [name for name in read if name.endswith(".safetensors")] == [*first, path_of(store, 2).name]


def test_shards_of_other_processes_are_read_at_the_first_opening_alone(tmp_path, store_of, read):
    filled(store_of(tmp_path))
    shutil.rmtree(tmp_path / "checked")
    read.clear()
    opened(store_of(tmp_path))
    assert len(read) == ITEMS // SHARD
    opened(store_of(tmp_path))
    assert len([name for name in read if name.endswith(".safetensors")]) == ITEMS // SHARD


def test_a_copy_is_read_in_full_once(tmp_path, store_of, read):
    filled(store_of(tmp_path / "cache"))
    shutil.copytree(tmp_path / "cache", tmp_path / "copy")
    for expected in (ITEMS // SHARD, 0):
        read.clear()
        opened(store_of(tmp_path / "copy"))
        assert len([name for name in read if name.endswith(".safetensors")]) == expected


def write_in_place_and_turn_back_the_clock(path):
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    flip(path)
    os.utime(path, ns=times)


def put_another_file_in_its_place(path):
    shutil.copy2(path, path.with_suffix(".new"))
    write_in_place_and_turn_back_the_clock(path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("harm", [flip, write_in_place_and_turn_back_the_clock, put_another_file_in_its_place])
def test_whatever_writes_to_a_shard_is_found_when_the_store_is_opened(tmp_path, store_of, harm):
    victim = path_of(filled(store_of(tmp_path)))
    harm(victim)
    store = store_of(tmp_path)
    assert store.lacking(ALL) == [Unit(SHARD, 2 * SHARD)]
    assert values(filled(store)) == list(range(ITEMS))


def test_a_seal_of_other_bytes_is_not_vouched_for(tmp_path, store_of):
    store, other = filled(store_of(tmp_path)), filled(store_of(tmp_path / "other"))
    shutil.copy(seal_path(path_of(other, 0)), seal_path(path_of(store)))
    assert store_of(tmp_path).lacks(ALL)


def test_a_byte_that_changed_without_a_trace_is_found_before_it_is_used(tmp_path, store_of):
    victim = path_of(filled(store_of(tmp_path)))
    flip(victim)
    leave_no_trace(victim)
    store = opened(store_of(tmp_path))
    assert not store.lacks(ALL)
    with pytest.raises(Damaged, match=victim.name):
        values(store)
    for later in (store, store_of(tmp_path)):
        assert later.lacking(ALL) == [Unit(SHARD, 2 * SHARD)]
    assert values(filled(store)) == values(opened(store_of(tmp_path))) == list(range(ITEMS))


@pytest.mark.parametrize("harm", [flip, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_states_that_are_not_whole_are_passed_over_and_named_by_verify(tmp_path, store_of, harm, read):
    store = filled(store_of(tmp_path))
    (kept,) = (tmp_path / "checked").glob("*[0-9a-f].json")
    assert kept.stem == store.folder.name
    harm(kept)
    assert [fault for entry in index_cache(tmp_path).entries if (fault := entry.fault(whole=True))]
    read.clear()
    assert values(opened(store_of(tmp_path))) == list(range(ITEMS))
    assert len([name for name in read if name.endswith(".safetensors")]) == ITEMS // SHARD
    assert not [fault for entry in index_cache(tmp_path).entries if (fault := entry.fault(whole=True))]


def test_two_sets_over_one_folder_keep_the_states_of_both(tmp_path, read):
    for keys in (KEYS[:SHARD], KEYS[SHARD : 2 * SHARD]):
        store = KINDS["rows"](tmp_path, keys)
        for unit in store.missing(Unit(0, SHARD)):
            store.write(unit, {"rows": np.ones((SHARD, 1, 2), np.float32)}, Timing([0.0] * SHARD, 1))
        store.pieces(Unit(0, SHARD))
    read.clear()
    assert not KINDS["rows"](tmp_path, KEYS[: 2 * SHARD]).lacks(Unit(0, 2 * SHARD))
    assert not [name for name in read if name.endswith(".safetensors")]


def test_a_cache_that_is_only_read_is_taken_at_its_own_word_and_checked_before_use(
    tmp_path, store_of, read, monkeypatch
):
    victim = path_of(filled(store_of(tmp_path / "shared")))
    monkeypatch.setattr(read_only, "_also", {tmp_path / "mine": (tmp_path / "shared",)})
    read.clear()
    opened(store_of(tmp_path / "mine"))
    assert not [name for name in read if name.endswith(".safetensors")]
    flip(victim)
    leave_no_trace(victim)
    store = opened(store_of(tmp_path / "mine"))
    with pytest.raises(Damaged, match=str(victim)):
        values(store)
    assert store_of(tmp_path / "mine").lacking(ALL) == [Unit(SHARD, 2 * SHARD)]  # which another process knows too
    assert values(filled(store)) == list(range(ITEMS))
    assert path_of(store).is_relative_to(tmp_path / "mine") and path_of(store).exists()


@pytest.fixture
def summed(monkeypatch):
    """Gives each row a checksum of its own, however small the shard."""
    monkeypatch.setattr(shards, "SUMMED", 0)


def taken(store, *items):
    return StoredRows(StoredShards(store, ALL), None, {}).take(np.array(items))[:, 0, 0].tolist()


def test_single_rows_of_a_shard_are_compared_without_reading_all_of_it(tmp_path, store_of, summed, read):
    victim = path_of(filled(store_of(tmp_path)), 2)
    read.clear()
    assert taken(opened(store_of(tmp_path)), 9, 8) == [9, 8]
    assert victim.name not in read
    flip(victim)  # in the last row
    leave_no_trace(victim)
    store = opened(store_of(tmp_path))
    assert taken(store, 9, 8) == [9, 8]
    with pytest.raises(Damaged, match=victim.name):
        taken(store, 11)
    assert store.lacking(ALL) == store_of(tmp_path).lacking(ALL) == [Unit(8, 12)]


def test_no_flipped_byte_of_a_shard_changes_a_row_that_is_taken(tmp_path, summed):
    victim = path_of(filled(KINDS["rows"](tmp_path)), 2)
    whole, found = victim.read_bytes(), 0
    for position in range(0, len(whole), 3):
        victim.write_bytes(whole[:position] + bytes([whole[position] ^ 0x11]) + whole[position + 1 :])
        leave_no_trace(victim)
        try:
            assert taken(opened(KINDS["rows"](tmp_path)), 9) == [9]
        except Damaged:
            found += 1
    assert 0 < found < len(whole) / 3


def test_states_that_cannot_be_kept_cost_time_alone(tmp_path, store_of):
    (tmp_path / "checked").write_text("a file")
    assert values(filled(store_of(tmp_path))) == values(opened(store_of(tmp_path))) == list(range(ITEMS))


def test_few_bytes_are_read_each_time_and_keep_no_states(tmp_path, store_of, monkeypatch):
    monkeypatch.setattr(checked_files.CheckedFiles.keep, "__defaults__", (checked_files.SPARED,))
    filled(store_of(tmp_path))
    assert not (tmp_path / "checked").exists()
