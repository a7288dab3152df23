"""Data sets of the library `datasets`: what it wrote, parquet files, and ids where there is no hub."""

import io
import time

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.data.open_dataset import list_items, load_items
from attrbench.errors import AttrbenchError


def png(value):
    buffer = io.BytesIO()
    Image.new("L", (6, 6), value).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def table(count=3, first=0, **more):
    columns = {
        "picture": [png(first + index) for index in range(count)],
        "words": [f"number {first + index}" for index in range(count)],
        "kind": [index % 2 for index in range(count)],
    }
    features = {"picture": ImageFeature(), "words": Value("string"), "kind": ClassLabel(names=["even", "odd"])}
    return Dataset.from_dict(columns, features=Features(features))


def load(path, tmp_path, **options):
    return load_items(DatasetSource(path=str(path), **options), 6, tmp_path / "cache", channels=1)


def test_a_saved_data_set_is_read_in_its_order(tmp_path):
    table().save_to_disk(tmp_path / "saved")
    items = load(tmp_path / "saved", tmp_path, caption_column="words", group_column="kind")
    assert items.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert list(items.prompts) == ["number 0", "number 1", "number 2"]
    assert list(items.groups) == ["even", "odd", "even"]
    assert list(items.names) == ["row 0", "row 1", "row 2"]
    assert isinstance(items.images, np.memmap)


def test_a_column_called_group_is_taken_for_groups(tmp_path):
    table().rename_column("kind", "group").save_to_disk(tmp_path / "saved")
    assert list(load(tmp_path / "saved", tmp_path).groups) == ["even", "odd", "even"]


def test_parquet_files_are_read_and_unpacked_below_the_cache(tmp_path):
    (tmp_path / "parquet" / "data").mkdir(parents=True)
    table().to_parquet(tmp_path / "parquet" / "data" / "train-0.parquet")
    items = load(tmp_path / "parquet", tmp_path, limit=2)
    assert items.images[:, 0, 0, 0].tolist() == [0, 1]
    assert (tmp_path / "cache" / "datasets").is_dir()


def test_of_several_splits_train_is_taken_unless_another_is_named(tmp_path):
    DatasetDict(train=table(2), test=table(3, first=10)).save_to_disk(tmp_path / "both")
    assert len(load(tmp_path / "both", tmp_path)) == 2
    assert len(load(tmp_path / "both", tmp_path, split="test")) == 3
    with pytest.raises(AttrbenchError, match=r"no split 'val' .split.: it has train, test"):
        load(tmp_path / "both", tmp_path, split="val")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"caption_column": "word"}, "no column 'word' .caption_column.: did you mean words"),
        ({"group_column": "xyzzy"}, "no column 'xyzzy' .group_column.: it has picture, words, kind"),
        ({"image_column": "words"}, "column 'words' .image_column. holds no images"),
        ({"split": "train"}, "has no splits"),
    ],
)
def test_columns_and_splits_that_are_not_there_are_named(tmp_path, options, words):
    table().save_to_disk(tmp_path / "saved")
    with pytest.raises(AttrbenchError, match=words):
        load(tmp_path / "saved", tmp_path, **options)


def test_a_table_without_images_says_so(tmp_path):
    Dataset.from_dict({"a": ["x"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(AttrbenchError, match="has no column of images: name one with image_column"):
        load(tmp_path / "saved", tmp_path)


def test_a_broken_image_in_a_row_is_named_by_the_row(tmp_path):
    broken = Dataset.from_dict(
        {"picture": [png(1), {"bytes": b"nothing", "path": None}, None]}, features=Features(picture=ImageFeature())
    )
    broken.save_to_disk(tmp_path / "saved")
    with pytest.raises(AttrbenchError, match=r"2 of 3 .* .row 1: not an image.*; row 2: the row has no image"):
        load(tmp_path / "saved", tmp_path)


def test_an_id_without_a_hub_is_one_line_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    started = time.perf_counter()
    with pytest.raises(AttrbenchError) as caught:
        list_items(DatasetSource(path="nobody/nothing"), tmp_path)
    assert time.perf_counter() - started < 5
    assert "cannot load the data set nobody/nothing" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_relative_path_with_a_folder_that_is_there_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(AttrbenchError, match="there is no folder pictures/flowers"):
        list_items(DatasetSource(path="pictures/flowers"), tmp_path)


def test_progress_bars_come_back(tmp_path):
    table().save_to_disk(tmp_path / "saved")
    before = datasets.utils.are_progress_bars_disabled()
    load(tmp_path / "saved", tmp_path)
    assert datasets.utils.are_progress_bars_disabled() == before
