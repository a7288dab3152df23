"""`attrbench reproduce RECORD` says whether its result falls into the interval; `--mark` lists those that did."""

import json

import pytest

from attrbench.contracts.marks import Mark, read_marks, write_marks
from attrbench.contracts.record_files import read_record
from attrbench.errors import AttrbenchError
from tests.cli.test_records import PIXEL, PUBLISHED, changed

SSIM = next(PUBLISHED.glob("ssim-*.json"))
"""A record whose command trains no models."""


@pytest.fixture
def state(monkeypatch):
    """The state of the checkout, as (revision, uncommitted changes)."""
    told = {"state": ("ab" * 20, False)}
    monkeypatch.setattr("attrbench.evaluation.provenance.git_state", lambda *without: told["state"])
    return told


@pytest.fixture
def rerun(monkeypatch):
    """Reproducing gives a record without running anything: `rerun.record` is what comes of it."""

    def give(record):
        monkeypatch.setattr("attrbench.cli.reproduce_record._run", lambda *arguments: None)
        monkeypatch.setattr("attrbench.cli.reproduce_record._result_of", lambda then, folder: record)

    give(read_record(PIXEL).record)
    return give


@pytest.mark.slow
def test_a_record_that_is_reproduced_is_marked_with_date_revision_and_hardware(attrbench, tmp_path, cache, state):
    done = attrbench("reproduce", SSIM, "--cache", cache, "--mark", tmp_path / "marks.json")
    assert done.code == 0 and done.out.endswith(f"marked in {tmp_path / 'marks.json'}\n"), done.err
    assert "100 of 100 queries have the same ranking" in done.out and "reproduced: inside the interval" in done.out
    (mark,) = read_marks(tmp_path / "marks.json")
    record = read_record(SSIM).record
    assert (mark.identity, mark.task, mark.method) == (record.identity, "digits-mini", "ssim")
    assert (mark.equal_rankings, mark.queries, mark.revision) == (100, 100, "ab" * 20)
    assert mark.value == pytest.approx(record.metric(mark.metric).value) and mark.hardware


def test_a_record_that_is_not_reproduced_gets_no_mark(attrbench, tmp_path, state, rerun):
    document = json.loads(PIXEL.read_text())
    for metric in document["metrics"]:
        metric |= {"value": 0.1, "low": 0.1, "high": 0.2}
    done = attrbench("reproduce", changed(tmp_path, metrics=document["metrics"]), "--mark", tmp_path / "marks.json")
    assert done.code == 1 and "not reproduced: outside of the interval" in done.out
    assert not (tmp_path / "marks.json").exists()


def test_code_with_uncommitted_changes_gives_no_mark_and_runs_nothing(attrbench, tmp_path, state, rerun, monkeypatch):
    state["state"] = ("ab" * 20, True)
    monkeypatch.setattr("attrbench.cli.reproduce_record._run", lambda *arguments: pytest.fail("something ran"))
    done = attrbench("reproduce", PIXEL, "--mark", tmp_path / "marks.json")
    assert done.code == 1 and "no mark from code with uncommitted changes" in done.complaint[0]
    state["state"] = (None, None)
    monkeypatch.setattr("attrbench.cli.reproduce_record._run", lambda *arguments: None)
    assert attrbench("reproduce", PIXEL, "--mark", tmp_path / "marks.json").code == 0
    assert read_marks(tmp_path / "marks.json")[0].revision == ""


@pytest.mark.parametrize("content", ["{}", "nonsense", '[{"identity": "x"}]'])
def test_what_is_no_list_of_marks_is_told_before_the_run_and_stays(attrbench, tmp_path, state, monkeypatch, content):
    monkeypatch.setattr("attrbench.cli.reproduce_record._run", lambda *arguments: pytest.fail("something ran"))
    (tmp_path / "marks.json").write_text(content)
    done = attrbench("reproduce", PIXEL, "--mark", tmp_path / "marks.json")
    assert done.code == 1 and len(done.complaint) == 1 and "is no list of marks" in done.complaint[0]
    assert (tmp_path / "marks.json").read_text() == content


def test_a_record_without_a_hash_for_identity_gets_no_mark(attrbench, tmp_path, state, rerun):
    done = attrbench("reproduce", changed(tmp_path, identity="mine"), "--mark", tmp_path / "marks.json")
    assert done.code == 1 and "identity is no hash" in done.complaint[0]


@pytest.mark.parametrize("retrain", [False, True])
def test_what_trains_models_of_its_own_is_repeated_only_where_that_is_asked_for(attrbench, rerun, monkeypatch, retrain):
    ran = []
    monkeypatch.setattr("attrbench.cli.reproduce_record._run", lambda command, *places: ran.extend(command))
    done = attrbench("reproduce", PIXEL, *["--retrain"] * retrain)
    assert done.code == 0, done.err
    assert ran[:6] == ["attrbench", "run", "-m", "pixel", "-t", "digits-mini"]
    assert ("--ground-truth" in ran) == retrain
    assert ("left out, as it trains models of its own; --retrain" in done.out) != retrain


def mark(identity, hardware="cpu", date="2026-01-01"):
    return Mark(
        identity=identity * 64, task="t", method="m", metric="d", value=0.5, equal_rankings=1, queries=2, date=date,
        attrbench="0.2.0", revision="", hardware=hardware,
    )  # fmt: skip


def test_of_two_marks_of_a_record_on_a_machine_the_last_stays_and_others_are_kept(tmp_path):
    file = tmp_path / "marks.json"
    write_marks(file, [mark("b"), mark("a"), mark("a", date="2026-02-02"), mark("a", "cuda")])
    assert [(each.identity[0], each.hardware, each.date) for each in read_marks(file)] == [
        ("a", "cpu", "2026-02-02"),
        ("a", "cuda", "2026-01-01"),
        ("b", "cpu", "2026-01-01"),
    ]
    assert read_marks(tmp_path / "none.json") == []
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(AttrbenchError, match="cannot write"):
        write_marks(tmp_path / "folder.json", [])


def test_marks_beside_records_are_passed_over_by_commands_on_records(attrbench, tmp_path):
    path = changed(tmp_path)
    write_marks(tmp_path / "reproduced.json", [mark("a")])
    done = attrbench("records", "ls", tmp_path)
    assert done.code == 0 and "1 records" in done.out and "reproduced.json" not in done.err + done.out
    assert path.exists()


def test_only_changes_outside_of_the_named_folders_count(tmp_path, monkeypatch):
    import subprocess

    from attrbench.evaluation import provenance

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    for file in ("attrbench/__init__.py", "attrbench/evaluation/x.py", "leaderboards/marks.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("a")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "a")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "attrbench" / "evaluation" / "x.py"))
    state = provenance.git_state.__wrapped__
    (tmp_path / "leaderboards" / "marks.json").write_text("b")
    assert [state()[1], state("leaderboards")[1]] == [True, False]
    (tmp_path / "attrbench" / "__init__.py").write_text("b")
    assert state("leaderboards")[1] is True and len(state("leaderboards")[0]) == 40
