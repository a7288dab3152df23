"""A run in progress says how far it is, to whoever shares its cache, and leaves nothing behind."""

import io
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

from attrbench.cli.app import main
from attrbench.evaluation import config, progress, run_status
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.run_status import StatusReporter, running, units_at_work
from attrbench.evaluation.task_run import TaskRun
from attrbench.plugins.registry import registry
from attrbench.store.cache_index import index_cache
from attrbench.store.locks import Claims
from tests.executors.tiny_methods import Rows
from tests.executors.tiny_task import request, settings, tiny_task
from tests.faults.injection import disk_full, watching


@pytest.fixture(autouse=True)
def _write_always(monkeypatch):
    monkeypatch.setattr(run_status, "EVERY", 0.0)


def reporter():
    return StatusReporter(Silent(), "digits-mini", ["dmin", "d-trak"], "processes:2")


@pytest.fixture
def told(monkeypatch, capsys):
    def run(cache, *more):
        monkeypatch.setattr(sys, "argv", ["attrbench", "status", "--cache", str(cache), *more])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        return capsys.readouterr().out

    return run


def test_stage_steps_and_workers_are_told_while_a_run_is_in_progress(tmp_path, told):
    status = reporter()
    with status.kept(tmp_path), status.stage("gradients of training items", 4) as advance:
        advance()
        with Claims(tmp_path / "claims" / ("a" * 20)).claim(64, wait=False):
            text = told(tmp_path)
            (unit,) = units_at_work(tmp_path)
            assert unit.first == 64
        (run,) = running(tmp_path)
        assert (run.stage.done, run.stage.total, run.task) == (1, 4, "digits-mini")
        (document,) = json.loads(told(tmp_path, "--json"))["runs"]
        assert document["methods"] == ["dmin", "d-trak"] and document["has_ended"] is False
    assert text.startswith("digits-mini: dmin, d-trak\n")
    assert "gradients of training items: 1 of 4" in text and "at work: items from 64 (" in text


def test_a_terminal_shows_below_the_bar_what_several_workers_are_at(tmp_path, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "console", lambda **_: Console(file=shown, force_terminal=True, width=80))
    asked = settings(tmp_path)
    with config.reporter(True, replace(asked, executor="processes:2")).stage("train gradients", 2) as advance:
        with Claims(asked.cache / "claims" / ("a" * 20)).claim(64, wait=False):
            time.sleep(1.3)  # the line is asked for once a second
        advance()
    assert "train gradients" in shown.getvalue() and "1/2" in shown.getvalue()
    assert "at work: items from 64 (" in shown.getvalue()
    shown.truncate(0)
    claims = Claims(asked.cache / "claims" / ("a" * 20))
    with config.reporter(True, asked).stage("train gradients", 1), claims.claim(64, wait=False):
        time.sleep(1.3)
    assert "train gradients" in shown.getvalue() and "at work" not in shown.getvalue()


def test_nothing_is_left_when_a_run_has_ended(tmp_path, told):
    status = reporter()
    with pytest.raises(ValueError, match="boom"), status.kept(tmp_path):
        raise ValueError("boom")
    assert running(tmp_path) == [] and not list((tmp_path / "running").iterdir())
    assert told(tmp_path) == "no run is in progress on this cache\n"


def test_a_run_whose_process_was_killed_is_said_to_have_ended_and_gc_knows_its_file(tmp_path, told, monkeypatch):
    status = reporter()
    with status.kept(tmp_path):
        monkeypatch.setattr("psutil.pid_exists", lambda process: False)
        assert "has ended without a word" in told(tmp_path)
        index = index_cache(tmp_path)
        assert len(index.parts) == 1 and not index.other


def test_a_damaged_file_of_a_status_is_passed_over(tmp_path, told):
    folder = tmp_path / "running"
    folder.mkdir()
    for number, content in enumerate((b"", b"[1]", b'{"host": 1}', b"\xff" * 10)):
        (folder / f"status.json.part-1-{number:016x}").write_bytes(content)
    assert told(tmp_path) == "no run is in progress on this cache\n"


def test_a_cache_that_cannot_be_written_stops_no_run(tmp_path):
    place = tmp_path / "file"
    place.write_text("no folder")
    status = reporter()
    with status.kept(place), status.stage("x", 1) as advance:
        advance()


@pytest.mark.parametrize("kind", ["create", "write", "rename"])
def test_a_full_disk_leaves_no_part_of_a_status(tmp_path, kind):
    with watching(tmp_path, disk_full(0), (kind,)) as seen:
        status = reporter()
        with status.kept(tmp_path), status.stage("x", 1) as advance:
            advance()
    assert len(seen.seen) >= 3 and not list((tmp_path / "running").iterdir())


class Watching(Rows):
    """Reads the status when it is fitted."""

    name = "watching"
    seen: ClassVar[list] = []

    def fit(self, train, context):
        self.seen += running(Path(context.workspace).parents[0]) or running(Path(context.workspace).parents[1])
        return super().fit(train, context)


def test_a_run_keeps_its_status_below_its_cache_and_removes_it(tmp_path):
    at_work = settings(tmp_path)
    list(TaskRun(registry(), tiny_task(), [request(Watching())], at_work, Silent()).results())
    (seen, *_) = Watching.seen
    assert seen.methods == ["watching"] and seen.task == tiny_task().label and seen.executor == at_work.executor
    assert running(at_work.cache) == []
