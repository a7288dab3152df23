"""Decoded images lie in the cache, memory-mapped, sealed, and are decoded once."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.data import image_cache as kept
from attrbench.data import image_folder
from attrbench.data.content_digests import digest_of
from attrbench.data.open_dataset import load_items
from attrbench.data.pixels import to_pixels
from attrbench.errors import AttrbenchError
from attrbench.store import artifacts
from attrbench.store.cache_index import index_cache
from attrbench.store.checksums import seal_path
from attrbench.store.garbage import DAY, find_garbage
from tests.data.making import captioned, metadata_csv, picture
from tests.data.test_pixels import bomb
from tests.shard_files import leave_no_trace


@pytest.fixture
def folder(tmp_path):
    return captioned(tmp_path / "images", 5)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """Names of the images that were decoded."""
    seen = []

    def noting(image, shape):
        seen.append(Path(image.filename).name)
        return to_pixels(image, shape)

    monkeypatch.setattr(kept, "to_pixels", noting)
    return seen


def load(folder, cache, resolution=8, channels=3, **options):
    return load_items(DatasetSource(path=str(folder), **options), resolution, cache, channels=channels)


def file_of(cache):
    """The only file of decoded images."""
    (path,) = (cache / "features").rglob("*.safetensors")
    return path


def test_images_are_memory_mapped_and_what_pillow_gives(folder, cache):
    items = load(folder, cache)
    assert isinstance(items.images, np.memmap)
    assert items.images.shape == (5, 8, 8, 3)
    for index in range(5):
        assert np.array_equal(items.images[index], to_pixels(Image.open(folder / f"{index:02d}.png"), (8, 8, 3)))
    assert list(items.names) == [f"{index:02d}.png" for index in range(5)]
    with pytest.raises(ValueError, match="read-only"):
        items.images[0, 0, 0, 0] = 1


def test_they_are_decoded_once(folder, cache, decoded):
    first = load(folder, cache)
    second = load(folder, cache)
    assert len(decoded) == 5
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(first.images, second.images)


def test_images_that_changed_without_a_trace_are_found_when_they_are_opened_and_decoded_again(folder, cache, decoded):
    before = np.array(load(folder, cache).images)
    path = file_of(cache)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    leave_no_trace(path)
    assert np.array_equal(load(folder, cache).images, before)
    assert len(decoded) == 10


def files_of(cache):
    return {path: path.stat().st_mtime_ns for path in (cache / "features").rglob("*.safetensors")}


def test_an_added_image_is_decoded_alone_wherever_it_stands(folder, cache, decoded, tmp_path):
    load(folder, cache)
    before = files_of(cache)
    picture(folder / "new.png", seed=99)
    metadata_csv(folder, *({"file_name": name, "text": name} for name in ("03.png", "new.png", "00.png", "01.png")))
    items = load(folder, cache)
    assert decoded[5:] == ["new.png"]
    assert before.items() < files_of(cache).items()
    fresh = load(folder, tmp_path / "fresh")
    assert np.array_equal(items.images, fresh.images)
    assert (items.fingerprint, items.keys) == (fresh.fingerprint, fresh.keys)


def test_a_moved_or_renamed_image_a_copy_and_a_double_are_not_decoded(folder, cache, decoded, tmp_path):
    load(folder, cache)
    shutil.copytree(folder, tmp_path / "copy")
    load(tmp_path / "copy", cache)
    (folder / "03.png").rename(folder / "moved.png")
    shutil.copy(folder / "00.png", folder / "double.png")
    metadata_csv(folder, *({"file_name": name, "text": name} for name in ("moved.png", "double.png", "00.png")))
    items = load(folder, cache)
    assert len(decoded) == 5
    assert np.array_equal(items.images[0], to_pixels(Image.open(folder / "moved.png"), (8, 8, 3)))
    assert np.array_equal(items.images[1], items.images[2])
    assert len(set(items.keys)) == 3


def test_files_of_equal_name_size_and_time_in_two_folders_are_told_apart(tmp_path, cache):
    for number, name in enumerate(("one", "other")):
        path = tmp_path / name / "a.bmp"
        path.parent.mkdir()
        Image.new("L", (4, 4), number).save(path)
        os.utime(path, (1, 1))
    assert (tmp_path / "one" / "a.bmp").stat().st_size == (tmp_path / "other" / "a.bmp").stat().st_size
    assert [load(tmp_path / name, cache, 4, 1).images.max() for name in ("one", "other")] == [0, 1]


def test_a_file_that_has_not_changed_is_not_read_and_one_changed_just_now_is(folder, cache, monkeypatch):
    for index in range(4):
        os.utime(folder / f"{index:02d}.png", (1, 1))
    load(folder, cache)
    read = []
    monkeypatch.setattr(image_folder, "digest_of", lambda data: read.append(data) or digest_of(data))
    load(folder, cache)
    assert read == [(folder / "04.png").read_bytes()]


def test_another_size_or_number_of_channels_is_another_file(folder, cache, decoded):
    prints = {load(folder, cache, *shape).fingerprint for shape in ((8, 3), (16, 3), (8, 1))}
    assert len(prints) == 3
    assert len(decoded) == 15


def test_a_changed_file_is_decoded_again_and_changes_the_fingerprint(folder, cache):
    before = load(folder, cache).fingerprint
    picture(folder / "03.png", seed=99)
    assert load(folder, cache).fingerprint != before


def test_the_fingerprint_is_of_the_contents_not_of_times_or_places(folder, cache, tmp_path):
    before = load(folder, cache)
    os.utime(folder / "03.png", (1, 1))
    shutil.copytree(folder, tmp_path / "copy")
    assert (
        load(folder, cache).fingerprint == before.fingerprint == load(tmp_path / "copy", tmp_path / "new").fingerprint
    )


def test_other_groups_leave_the_fingerprint_alone_and_other_captions_do_not(folder, cache):
    plain, grouped = load(folder, cache), load(folder, cache, group_column="family")
    assert plain.fingerprint == grouped.fingerprint
    assert plain.grouping != grouped.grouping
    assert load(folder, cache, caption_column="family").fingerprint != plain.fingerprint


@pytest.mark.parametrize("harm", ["truncate", "flip", "unseal"])
def test_a_damaged_file_is_decoded_again(folder, cache, decoded, harm):
    before = np.array(load(folder, cache).images)
    path = file_of(cache)
    data = bytearray(path.read_bytes())
    if harm == "unseal":
        seal_path(path).unlink()
    else:
        data[2000] ^= 1
        path.write_bytes(data if harm == "flip" else data[:-1])
    assert np.array_equal(load(folder, cache).images, before)
    assert len(decoded) == 10


def test_an_interruption_leaves_nothing_half_behind(folder, cache, monkeypatch):
    def stop(image, shape):
        raise KeyboardInterrupt

    monkeypatch.setattr(kept, "to_pixels", stop)
    with pytest.raises(KeyboardInterrupt):
        load(folder, cache)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.parent.name != "digests"][1:]


def test_more_images_than_a_chunk_keep_their_order(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(kept, "CHUNK", 3)
    for value in range(10):
        path = tmp_path / "many" / f"{value}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), value).save(path)
    assert load(tmp_path / "many", cache, 4, 1).images[:, 0, 0, 0].tolist() == list(range(10))


def spoil(folder):
    (folder / "01.png").write_bytes((folder / "01.png").read_bytes()[:80])
    (folder / "02.png").write_text("no image at all")
    (folder / "03.png").write_bytes(bomb())
    (folder / "04.png").write_bytes(b"")


def test_images_that_cannot_be_read_are_refused_by_name(folder, cache):
    spoil(folder)
    with pytest.raises(AttrbenchError) as caught:
        load(folder, cache)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"4 of 5 images in {folder} cannot be read (01.png: ")
    for word in ("02.png: not an image", "03.png: more than 89 million pixels", "and 1 more", 'on_bad_image = "skip"'):
        assert word in line


def test_or_skipped_with_their_captions_and_nothing_is_decoded_again(folder, cache, decoded, caplog):
    spoil(folder)
    with pytest.raises(AttrbenchError):
        load(folder, cache)
    assert decoded.count("00.png") == 1
    items = load(folder, cache, on_bad_image="skip")
    assert decoded.count("00.png") == 1
    assert list(items.names) == ["00.png"]
    assert list(items.prompts) == ["caption 0"]
    assert np.array_equal(items.images[0], to_pixels(Image.open(folder / "00.png"), (8, 8, 3)))
    assert "4 of 5 images" in caplog.text and "left out" in caplog.text


def test_an_image_that_can_be_read_by_now_comes_back_though_its_file_is_the_same(folder, cache, monkeypatch):
    with monkeypatch.context() as away:
        away.setattr(kept, "to_pixels", lambda image, shape: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(AttrbenchError, match="input/output error"):
            load(folder, cache)
    assert len(load(folder, cache)) == 5


def test_a_folder_with_nothing_but_bad_images_is_an_error_in_any_case(tmp_path, cache):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("x")
    with pytest.raises(AttrbenchError, match=r"no image in .*bad can be read; a\.png: not an image"):
        load(tmp_path / "bad", cache, on_bad_image="skip")


def test_a_full_disk_is_told_before_anything_is_decoded(folder, cache, decoded, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(AttrbenchError, match=r"need 0 MB below .* --cache"):
        load(folder, cache)
    assert not decoded


def test_a_cache_that_cannot_be_written_to_is_one_line(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AttrbenchError, match=r"cannot write to the cache .* --cache"):
        load(folder, tmp_path / "file")


def test_the_inventory_knows_them(folder, cache):
    load(folder, cache)
    entry, digests = sorted(index_cache(cache).entries, key=lambda entry: entry.seal.kind)
    assert (entry.seal.kind, digests.seal.kind) == ("decoded images", "digests of files")
    assert entry.fault(whole=True) is None
    entry.path.write_bytes(b"\0" * entry.path.stat().st_size)
    assert entry.fault() is None
    assert entry.fault(whole=True).what == "checksum differs"


def test_what_another_process_decodes_meanwhile_is_taken(folder, cache, decoded, monkeypatch):
    claim = artifacts.claim

    @contextmanager
    def waiting(path, wait, leases=False):
        monkeypatch.setattr(artifacts, "claim", claim)
        load(folder, cache)  # by the process that was first
        yield True

    monkeypatch.setattr(artifacts, "claim", waiting)
    load(folder, cache)
    assert len(decoded) == 5


def test_unused_ones_may_go_and_used_ones_stay(folder, cache):
    load(folder, cache)
    images = file_of(cache).parent

    def going():
        return [removal.path for removal in find_garbage(index_cache(cache), 0, older_than=10 * DAY).ready]

    for file in images.iterdir():
        os.utime(file, (1, 1))
    assert images in going()
    load(folder, cache)
    assert images not in going()


def test_16_bit_gray_palette_and_rgba_files_lie_beside_each_other(tmp_path, cache):
    folder = tmp_path / "mixed"
    folder.mkdir()
    Image.fromarray(np.full((9, 7), 65535, np.uint16)).save(folder / "a.png")
    Image.new("RGBA", (20, 4), (0, 0, 0, 0)).save(folder / "b.png")
    Image.new("P", (5, 5), 0).save(folder / "c.gif")
    Image.new("L", (3, 30), 255).save(folder / "d.jpg")
    images = load(folder, cache).images
    assert images.shape == (4, 8, 8, 3)
    assert images[[0, 1, 3]].min() == 255


def test_names_are_escaped_nowhere_in_the_data(tmp_path, cache):
    """What a data set says is kept as it is; it is made safe where it is shown."""
    odd = "[red]x[/red]\x1b[31m"
    picture(tmp_path / "odd" / "a.png")
    metadata_csv(tmp_path / "odd", {"file_name": "a.png", "text": odd})
    assert load(tmp_path / "odd", cache).prompts[0] == odd
