"""A task file runs like any task: own images, own model, groups or none."""

import os

import numpy as np
import pytest
import torch

from attrbench.contracts.record import TUNING_RUNS, read_records
from attrbench.contracts.task import Workspace
from attrbench.errors import AttrbenchError
from attrbench.taskfile.read import read_task
from tests.data.making import captioned, metadata_csv, picture
from tests.taskfile.making import write_task


@pytest.fixture
def own(tmp_path, tiny_folder):
    """A folder of 8 captioned images in two groups, and a task file beside it."""

    def write(**tables):
        defaults = {
            "model": {"model": str(tiny_folder), "sampling_steps": 2},
            "train": {"path": "images", "group_column": "family"},
            "queries": {"seeds": "0-1", "groups": ["a", "b"]},
        }
        return write_task(tmp_path / "own.toml", **{**defaults, **tables})

    captioned(tmp_path / "images", 8)
    return write


def opened(path, tmp_path):
    return read_task(path, {}).open(Workspace(tmp_path / "cache", torch.device("cpu")))


def record_of(out):
    (record,) = read_records(out)[0]
    return record


def test_images_come_at_the_size_and_in_the_channels_of_the_model(own, tmp_path):
    task = opened(own(), tmp_path)
    assert task.train.images.shape == (8, 8, 8, 1)
    assert list(task.train.groups) == list("abababab")
    assert task.queries.images.shape == (2, 8, 8, 1)
    assert list(task.queries.seeds) == [0, 1]
    assert list(task.queries.names) == ["seed 0", "seed 1"]


def test_drawn_queries_come_before_pictures_of_a_folder(own, tmp_path):
    picture(tmp_path / "asked" / "z.png", 5)
    task = opened(own(queries={"seeds": "3", "images": "asked"}), tmp_path)
    assert list(task.queries.names) == ["seed 3", "z.png"]
    assert task.queries.seeds is None
    assert np.array_equal(task.queries.images[0], task.denoiser.generate([""], [3])[0])


def test_a_run_with_groups_has_a_detection_rate(own, tmp_path, attrbench):
    done = attrbench("run", "-m", "pixel", "-t", own(), "--out", tmp_path / "out")
    assert done.code == 0
    assert "detection-rate@5" in str([result.name for result in record_of(tmp_path / "out").metrics])


def test_a_run_without_groups_ranks_and_says_why_nothing_else(own, tmp_path, attrbench):
    path = own(train={"path": "images"}, queries={"seeds": "0-1"})
    done = attrbench("run", "-m", "pixel", "-m", "dmin:v=64,search=hnsw", "-t", path, "--out", tmp_path / "out")
    assert done.code == 0
    assert "detection-rate@10 does not apply; the training items have no groups" in done.out
    records, _ = read_records(tmp_path / "out")
    for record in records:
        assert record.status == "complete"
        assert len(record.ranking) == 2 and len(record.ranking[0]) == 8
        assert {result.metric for result in record.metrics} <= {"ann-recall"}
        assert record.notes == ["the training items have no groups: rankings only"]
    shown = attrbench("leaderboard", tmp_path / "out", "--format", "md").out
    rows = [line for line in shown.splitlines() if line.startswith("| –")]
    assert len(rows) == 2
    assert all("no detection-rate@10; the training items have no groups" in row and "B |" in row for row in rows)


def test_a_query_without_a_group_takes_nothing_for_its_like(own, tmp_path, attrbench):
    """An empty group is no group: it must not match the items that have none."""
    path = own(queries={"seeds": "0-1", "groups": ["a", ""]})
    attrbench("run", "-m", "pixel", "-t", path, "--out", tmp_path / "out")
    record = record_of(tmp_path / "out")
    assert record.metrics == []
    assert record.notes == ["1 of 2 queries have no group: rankings only"]


def test_a_record_answers_until_a_file_changes(own, tmp_path, attrbench):
    arguments = ("run", "-m", "pixel", "-t", own(), "--out", tmp_path / "out")
    assert "already there" not in attrbench(*arguments).out
    assert "already there" in attrbench(*arguments).out
    picture(tmp_path / "images" / "05.png", 99)
    assert "already there" not in attrbench(*arguments).out


def test_other_groups_are_another_table_and_no_new_features(own, tmp_path, attrbench):
    arguments = ("run", "-m", "dmin:v=64,timesteps=1", "-t", own(), "--out", tmp_path / "out")
    assert "train gradients" in attrbench(*arguments).err
    rows = [{"file_name": f"{i:02d}.png", "text": f"caption {i}", "family": "ab"[i // 4]} for i in range(8)]
    metadata_csv(tmp_path / "images", *rows)
    os.utime(tmp_path / "images" / "metadata.csv", (1, 1))
    assert "gradients: " not in attrbench(*arguments).err
    prints = {record.task.fingerprint for record in read_records(tmp_path / "out")[0]}
    assert len(prints) == 2


def test_images_left_out_are_on_record(own, tmp_path, attrbench):
    (tmp_path / "images" / "02.png").write_text("no image")
    done = attrbench("run", "-m", "pixel", "-t", own(), "--out", tmp_path / "out")
    assert done.code == 1
    assert len(done.complaint) == 1
    assert "02.png: not an image" in done.complaint[0]
    skipping = own(train={"path": "images", "group_column": "family", "on_bad_image": "skip"})
    assert attrbench("run", "-m", "pixel", "-t", skipping, "--out", tmp_path / "out").code == 0
    record = record_of(tmp_path / "out")
    assert record.coverage.train_total == 7
    assert "1 of 8 images" in record.notes[0] and "02.png" in record.notes[0]


def test_options_that_the_training_set_cannot_meet_are_refused_once_its_size_is_known(own, tmp_path, attrbench):
    done = attrbench("run", "-m", "dmin:k=9", "-t", own(), "--out", tmp_path / "out")
    assert done.code == 2
    assert "k=9 is larger than the training set (8 items)" in done.complaint[0]


def test_faults_of_the_data_are_told_before_the_model_is_loaded(own, tmp_path, attrbench, monkeypatch):
    monkeypatch.setattr("attrbench.models.loading.load_denoiser", lambda *_: pytest.fail("it was loaded"))
    for tables, words in (
        ({"train": {"path": "imags"}}, "imags"),
        ({"train": {"path": "./imags"}}, "did you mean"),
        ({"train": {"path": "images", "group_column": "famly"}}, "did you mean family?"),
        ({"queries": {"prompts": "none.txt"}}, "cannot read the prompts in"),
        ({"queries": {"images": "./nowhere"}}, "nowhere"),
    ):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        done = attrbench("run", "-m", "pixel", "-t", own(**tables), "--out", tmp_path / "out")
        assert done.code == 1
        assert len(done.complaint) == 1
        assert words in done.complaint[0]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"queries": None}, "has no table [queries]"),
        ({"queries": {"prompts": ["a"]}}, "the model takes none"),
        ({"task": {"name": "digits-mini"}}, "choose another name"),
        ({"model": {"model": "./nothing"}}, "nothing"),
    ],
)
def test_what_does_not_go_together_is_one_line(own, tmp_path, attrbench, tables, words):
    done = attrbench("run", "-m", "pixel", "-t", own(**tables), "--out", tmp_path / "out")
    assert done.code in (1, 2)
    assert len(done.complaint) == 1
    assert words in done.complaint[0]


def test_a_plan_for_pictures_of_a_folder_loads_no_network(own, tmp_path, attrbench, monkeypatch):
    picture(tmp_path / "asked" / "z.png", 5)
    path = own(queries={"images": "asked"})

    def refuse(*arguments):
        raise AssertionError("the network is loaded")

    monkeypatch.setattr("attrbench.models.loading.load_denoiser", refuse)
    done = attrbench("run", "-m", "dmin:v=64", "-t", path, "--dry-run", "--out", tmp_path / "out")
    assert done.code == 0
    assert "8 training items, 1 queries" in done.err
    assert "gradients of the loss of train items" in done.err


def test_there_is_no_recipe_to_train_it(own, attrbench):
    done = attrbench("train", own())
    assert done.code == 2
    assert "has no training recipe" in done.complaint[0]


def test_a_model_that_takes_prompts_needs_captions(own, tmp_path):
    picture(tmp_path / "bare" / "a.png")
    task = opened(own(train={"path": "bare"}), tmp_path)
    task.model_description.outline.takes_prompts = True
    with pytest.raises(AttrbenchError, match="has no captions, and the model takes prompts"):
        _ = task.train


def test_options_are_chosen_on_the_queries_of_its_table_tuning(own, tmp_path, attrbench):
    path = own(tuning={"seeds": "5-7", "groups": ["a", "b", "a"]})
    asked = ("-m", "dmin:v=16|64,timesteps=2", "--by", "detection-rate@5")
    done = attrbench("tune", *asked, "-t", path, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    record = record_of(tmp_path / "out")
    assert (record.tuned.queries, record.coverage.queries) == (3, 2)
    assert record.task.label == str(path) and record.tuned.task == f"{path}:query_set=tuning"
    assert len(record.tuned.tried) == 2
    kept, _ = read_records(tmp_path / "out" / "cache" / TUNING_RUNS)
    assert {record.task.label for record in kept} == {f"{path}:query_set=tuning"}
    again = attrbench(*kept[0].command.split()[1:], "--out", tmp_path / "again")
    assert again.code == 0 and record_of(tmp_path / "again").ranking == kept[0].ranking


def test_a_table_tuning_changes_nothing_about_the_reported_queries(own, tmp_path, attrbench):
    arguments = ("run", "-m", "pixel", "--out", tmp_path / "out", "-t")
    attrbench(*arguments, own())
    done = attrbench(*arguments, own(tuning={"seeds": "5-7", "groups": ["a", "b", "a"]}))
    assert "already there" in done.out


@pytest.mark.parametrize(
    ("tuning", "piece"),
    [
        (None, "has no table [tuning]; give it one, like [queries]"),
        ({"seeds": "0-1", "groups": ["a", "b"]}, "seed 0 is in [tuning] and in [queries]"),
        ({"seeds": [7, 1], "groups": ["a", "b"]}, "seed 1 is in [tuning] and in [queries]"),
    ],
)
def test_without_other_queries_nothing_is_chosen(own, tmp_path, attrbench, tuning, piece):
    path = own(tuning=tuning)
    done = attrbench("tune", "-m", "dmin:v=16|64,timesteps=2", "-t", path, "--out", tmp_path / "out")
    assert done.code == 2
    (line,) = done.complaint
    assert str(path) in line and piece in line


def test_options_are_not_chosen_on_the_folder_that_is_reported(own, tmp_path, attrbench):
    captioned(tmp_path / "asked", 2)
    path = own(queries={"images": "asked"}, tuning={"images": "./asked", "seeds": "5"})
    done = attrbench("tune", "-m", "dmin:v=16|64", "-t", path, "--out", tmp_path / "out")
    assert done.code == 2
    assert f"what is in {tmp_path / 'asked'} is in [tuning] and in [queries]" in done.err


def test_nor_where_there_is_nothing_to_report_on(own, tmp_path, attrbench):
    path = own(queries=None, tuning={"seeds": "5", "groups": ["a"]})
    done = attrbench("tune", "-m", "dmin:v=16|64", "-t", path, "--out", tmp_path / "out")
    assert done.code == 2 and "has no table [queries]" in done.err


def test_an_unknown_query_set_is_refused(own, attrbench):
    done = attrbench("run", "-m", "pixel", "-t", f"{own()}:query_set=other")
    assert done.code == 2 and "query_set=other: reported or tuning" in done.err
