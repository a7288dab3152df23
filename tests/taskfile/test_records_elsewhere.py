"""Runs on equal weights and data join one board, wherever these lie; on others they do not."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

import attrbench
from attrbench.reports.ranking import build_tables
from tests.data.making import captioned, picture
from tests.taskfile.making import write_task


def run_in(folder, model):
    """Run on a model that is copied into a folder, with data and a task file beside it; return the record."""
    folder.mkdir()
    shutil.copytree(model, folder / "weights")
    captioned(folder / "images", 8)
    picture(folder / "asked" / "a.png", 5)
    path = write_task(
        folder / "own.toml",
        model={"model": str(folder / "weights")},
        train={"path": str(folder / "images"), "group_column": "family"},
        queries={"images": str(folder / "asked")},
    )
    results = attrbench.run("pixel", path, out=folder / "out", cache=folder / "cache", progress=False)
    (record,) = results.records
    return record


@pytest.fixture
def other_model(tmp_path, tiny_folder):
    folder = tmp_path / "other"
    shutil.copytree(tiny_folder, folder)
    (weights,) = folder.rglob("*.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    return folder


def test_equal_weights_and_data_at_another_place_are_of_one_board(tmp_path, tiny_folder, other_model):
    here, there = run_in(tmp_path / "here", tiny_folder), run_in(tmp_path / "there", tiny_folder)
    assert here.task.options != there.task.options
    assert here.task.fingerprint == there.task.fingerprint
    assert len(build_tables([here, there])) == 1
    (table,) = build_tables([here])
    assert str(tmp_path) not in table.task
    changed = run_in(tmp_path / "elsewhere", other_model)
    assert changed.task.fingerprint != here.task.fingerprint
