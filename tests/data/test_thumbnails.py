"""Thumbnail sheets: what is written is read back, damage is told, and nothing else in a ZIP archive gets through."""

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from attrbench.contracts.thumbnails import Thumbnail, Thumbnails
from attrbench.data.thumbnail_pictures import LOSSLESS, SIDE, media_type, thumbnail_picture
from attrbench.data.thumbnail_sheet import CAPTION, add_thumbnails, find_thumbnails, read_thumbnails, sheet_path

HOSTILE = ("<script>alert(1)</script>", "\x1b[31mred", "‮evil", "x" * 10_000, "=cmd()|' /C calc'!A0", "\ud800")


def picture(value=0, side=8, channels=1):
    return thumbnail_picture(np.full((side, side, channels), value, np.uint8))


def thumbnails(*items, fingerprint="f" * 64, scores=None):
    shown = {item: Thumbnail(picture(item % 256), str(item % 2), f"caption {item}", f"{item}.png") for item in items}
    return Thumbnails("t", fingerprint, {0: Thumbnail(picture(200), "1")}, shown, scores or {})


def archive(path, **entries):
    with zipfile.ZipFile(path, "w") as made:
        for name, content in entries.items():
            made.writestr(name.replace("__", "/").replace("_json", ".json"), content)
    return path


def index(**parts):
    whole = {"task": "t", "fingerprint": "f", "queries": {}, "train": {}}
    return json.dumps(whole | parts)


def test_what_is_written_is_read_back(tmp_path):
    wanted = thumbnails(3, 700, scores={"a" * 64: [[0.5, None], [1e-9, -3.25]]})
    path = sheet_path(tmp_path, "t", wanted.fingerprint)
    add_thumbnails(path, wanted)
    assert read_thumbnails(path) == wanted
    assert path == tmp_path / "t" / "thumbnails-ffffffffff.zip"
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no lock, no part


def test_records_of_later_runs_join_the_sheet_and_the_same_ones_leave_it_alone(tmp_path):
    path = tmp_path / "thumbnails-x.zip"
    add_thumbnails(path, thumbnails(1, scores={"one": [[1.0]]}))
    add_thumbnails(path, thumbnails(2, scores={"two": [[2.0]]}))
    assert read_thumbnails(path) == thumbnails(1, 2, scores={"one": [[1.0]], "two": [[2.0]]})
    before = path.stat().st_mtime_ns
    add_thumbnails(path, thumbnails(1))
    assert path.stat().st_mtime_ns == before


def test_runs_that_write_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "thumbnails-x.zip"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda item: add_thumbnails(path, thumbnails(item)), range(12)))
    assert read_thumbnails(path).train.keys() == set(range(12))


def test_a_sheet_is_a_function_of_what_it_holds(tmp_path):
    one, two = tmp_path / "thumbnails-1.zip", tmp_path / "thumbnails-2.zip"
    add_thumbnails(one, thumbnails(1))
    add_thumbnails(one, thumbnails(2))
    add_thumbnails(two, thumbnails(2, 1))
    assert one.read_bytes() == two.read_bytes()


def test_a_sheet_of_another_task_version_is_replaced(tmp_path):
    path = tmp_path / "thumbnails-x.zip"
    add_thumbnails(path, thumbnails(1))
    add_thumbnails(path, thumbnails(2, fingerprint="e" * 64))
    assert read_thumbnails(path) == thumbnails(2, fingerprint="e" * 64)


@pytest.mark.parametrize("place", range(10))
def test_every_damaged_byte_of_a_picture_is_noticed_and_the_sheet_is_made_again(tmp_path, place):
    path = tmp_path / "thumbnails-x.zip"
    add_thumbnails(path, thumbnails(1))
    whole = path.read_bytes()
    at = whole.index(picture(1)) + place * (len(picture(1)) // 10)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(ValueError, match="not a readable thumbnail sheet"):
        read_thumbnails(path)
    found, (problem,) = find_thumbnails(tmp_path)
    assert found == {} and "thumbnails-x.zip" in problem
    add_thumbnails(path, thumbnails(1))
    assert path.read_bytes() == whole


FAULTS = {
    "no archive": lambda path: path.write_bytes(b"PK nothing"),
    "half": lambda path: path.write_bytes(path.read_bytes()[:40]) if path.exists() else path.write_bytes(b""),
    "no index": lambda path: archive(path, other="x"),
    "no JSON": lambda path: archive(path, index_json="{"),
    "another schema": lambda path: archive(path, index_json=index(thumbnail_schema=2)),
    "unknown parts": lambda path: archive(path, index_json=index(more=1)),
    "a negative item": lambda path: archive(path, index_json=index(train={"-1": {"picture": "p"}}), p=picture()),
    "no picture": lambda path: archive(path, index_json=index(train={"1": {"picture": "p"}})),
    "an SVG picture": lambda path: archive(
        path, index_json=index(train={"1": {"picture": "p"}}), p="<svg onload='alert(1)'/>"
    ),
    "scores as text": lambda path: archive(path, index_json=index(), scores__a_json='[["<b>"]]'),
    "a long caption": lambda path: archive(
        path, index_json=index(train={"1": {"picture": "p", "caption": "x" * (CAPTION + 2)}}), p=picture()
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_no_thumbnail_sheet_is_named_in_one_line_and_left_out(tmp_path, fault):
    FAULTS[fault](tmp_path / "thumbnails-bad.zip")
    add_thumbnails(tmp_path / "sub" / "thumbnails-good.zip", thumbnails(1))
    found, (problem,) = find_thumbnails(tmp_path)
    assert list(found) == ["f" * 64]
    assert problem.startswith(f"{tmp_path / 'thumbnails-bad.zip'}: ") and "\n" not in problem and len(problem) < 600


def test_an_archive_that_unpacks_to_more_than_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("attrbench.data.thumbnail_sheet.MOST_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "thumbnails-bomb.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("index.json", " " * (1 << 21))
    with pytest.raises(ValueError, match="more than 1 MiB"):
        read_thumbnails(tmp_path / "thumbnails-bomb.zip")


def test_hostile_texts_are_kept_as_text_and_cut(tmp_path):
    path = tmp_path / "thumbnails-x.zip"
    shown = {item: Thumbnail(picture(), text, text, text) for item, text in enumerate(HOSTILE)}
    add_thumbnails(path, Thumbnails("t", "f", {}, shown))
    for item, thumbnail in read_thumbnails(path).train.items():
        assert len(thumbnail.caption) <= CAPTION + 1
        assert thumbnail.caption == thumbnail.group == thumbnail.name
        assert HOSTILE[item].startswith(thumbnail.caption.rstrip("…")) or thumbnail.caption == "?"


@pytest.mark.parametrize(
    ("shape", "kind", "size"),
    [
        ((8, 8, 1), "image/png", (8, 8)),
        ((LOSSLESS, LOSSLESS, 3), "image/png", (LOSSLESS, LOSSLESS)),
        ((512, 256, 3), "image/webp", (SIDE // 2, SIDE)),
        ((1, 3000, 1), "image/webp", (SIDE, 1)),
    ],
)
def test_small_pictures_are_kept_exactly_and_large_ones_reduced(shape, kind, size):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    made = thumbnail_picture(pixels)
    assert media_type(made) == kind
    image = Image.open(io.BytesIO(made))
    assert image.size == size
    if kind == "image/png":
        assert np.array_equal(np.asarray(image).reshape(shape), pixels)
    else:
        assert len(made) < 8000
