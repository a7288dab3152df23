"""A run leaves the pictures that its records rank at the top, with their scores, and a later run adds what is new."""

import numpy as np
import pytest

import attrbench
from attrbench.conformance.toy_task import ToyTask
from attrbench.data.thumbnail_pictures import thumbnail_picture
from attrbench.data.thumbnail_sheet import PATTERN, read_thumbnails
from attrbench.evaluation.thumbnail_step import TOP


@pytest.fixture
def toy():
    return ToyTask(ToyTask.Options())


@pytest.fixture
def run(tmp_path, toy):
    def run(*methods, **settings):
        folders = {"out": tmp_path / "records", "cache": tmp_path / "cache"}
        return attrbench.run(list(methods), toy, progress=False, **folders, **settings)

    return run


def sheets(tmp_path):
    return sorted((tmp_path / "records").rglob(PATTERN))


def test_pictures_groups_and_scores_are_those_of_the_task_and_the_run(run, tmp_path, toy):
    results = run("pixel")
    (path,) = sheets(tmp_path)
    assert path.parent == results.paths[0].parent
    found, opened = read_thumbnails(path), results._open(results.records[0].task.label)
    (record,) = results.records
    assert found.fingerprint == record.task.fingerprint
    assert found.train.keys() == {item for row in record.ranking for item in row[:TOP] if item >= 0}
    assert found.queries.keys() == set(range(len(opened.queries)))
    for items, thumbnails in ((opened.train, found.train), (opened.queries, found.queries)):
        for item, thumbnail in thumbnails.items():
            assert thumbnail.picture == thumbnail_picture(items.images[item])
            assert (thumbnail.group, thumbnail.caption) == (items.groups[item], items.prompts[item])
    scores = np.take_along_axis(results.scores("pixel"), np.array(record.ranking)[:, :TOP], axis=1)
    assert np.allclose(found.scores[record.identity], scores, rtol=1e-3)


def test_a_later_run_adds_its_items_and_repeating_one_changes_nothing(run, tmp_path):
    run("pixel")
    (path,) = sheets(tmp_path)
    first = read_thumbnails(path)
    both = run("pixel", "random")
    joined = read_thumbnails(path)
    assert joined.train.keys() == {i for record in both.records for row in record.ranking for i in row[:TOP] if i >= 0}
    assert joined.train.keys() > first.train.keys()
    assert joined.scores.keys() == {record.identity for record in both.records}
    before = path.stat().st_mtime_ns
    run("pixel", "random")
    assert path.stat().st_mtime_ns == before


def test_records_that_were_there_without_pictures_get_them_from_the_same_command(run, tmp_path):
    run("pixel")
    (path,) = sheets(tmp_path)
    first = read_thumbnails(path)
    path.unlink()
    results = run("pixel")
    assert all(result.reused for result in results)
    assert read_thumbnails(path).train == first.train and read_thumbnails(path).queries == first.queries


def test_no_sheet_is_written_by_a_dry_run_nor_for_queries_that_options_are_chosen_on(run, tmp_path):
    run("pixel", dry_run=True)
    folders = {"out": tmp_path / "records", "cache": tmp_path / "cache"}
    limits = {"limit_train": 64, "limit_queries": 2, "progress": False}
    attrbench.tune("dmin:v=64|128", "digits-mini", **limits, **folders)
    assert list((tmp_path / "cache").rglob("*.json"))
    assert not list((tmp_path / "cache").rglob(PATTERN))
    assert len(sheets(tmp_path)) == 1  # of the reported queries


def test_a_sheet_that_cannot_be_written_costs_the_run_nothing_but_a_note(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attrbench.evaluation.thumbnail_step.add_thumbnails", full)
    (record,) = run("pixel").records
    assert record.status == "complete" and sheets(tmp_path) == []
