"""`attrbench tune`: options are chosen on the tuning queries, run on the reported ones, and never chosen on these."""

import json
from typing import Literal

import numpy as np
import pytest

from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.ground_truth import Effect, GroundTruth, OpenGroundTruth
from attrbench.contracts.method import ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options
from attrbench.contracts.record import TUNING_RUNS, Record, read_records
from attrbench.contracts.task import Items, OpenTask, Task, TaskMeta
from attrbench.errors import AttrbenchError
from attrbench.features.images import Images
from attrbench.plugins.registry import Plugin, load_registry
from attrbench.store.fingerprint import fingerprint
from tests.cli.conftest import SMALL
from tests.registering import plugin_of

GROUPS, TRAIN, QUERIES = 3, 12, 6


def items(count, lies_at):
    """Pictures whose every place but one says their group; there it says the next."""
    pixels = np.zeros((count, 2, 1, 1), np.uint8)
    groups = np.arange(count) % GROUPS
    pixels[:, :, 0, 0] = groups[:, None]
    if lies_at is not None:
        pixels[:, lies_at, 0, 0] = (groups + 1) % GROUPS
    return Items(pixels, [str(g) for g in groups], [""] * count, fingerprint([count, lies_at]))


class TaskOptions(Options):
    query_set: Literal["reported", "tuning"] = "reported"
    """Which queries."""


class Open(OpenTask):
    denoiser = None

    def __init__(self, lies_at):
        self._lies_at = lies_at

    @property
    def train(self):
        return items(TRAIN, None)

    @property
    def queries(self):
        return items(QUERIES, self._lies_at)


def meta(name):
    words = dict.fromkeys(("summary", "model", "dataset", "license", "memory"), "none")
    return TaskMeta(name=name, version=1, train_items=TRAIN, **words)


class Lying(Task[TaskOptions]):
    """The first place lies on the reported queries, the second on the tuning queries."""

    Options = TaskOptions
    meta = meta("lying-mini")
    tuning = {"query_set": "tuning"}  # noqa: RUF012

    def open(self, workspace):
        return Open({"reported": 0, "tuning": 1}[self.options.query_set])


class Lying2(Lying):
    """The same once more."""

    meta = meta("lying2-mini")


class Trains(OpenGroundTruth):
    """A ground truth that must not be measured."""

    depth = 5
    summary = "trains for hours"

    def measure(self, outcome, seed, stage):
        raise AssertionError


class OfTuningQueries(GroundTruth[Options]):
    """It applies to the tuning queries of one task."""

    name = "of-tuning-queries"
    summary = "trains for hours"
    Options = Options

    def open(self, setting):
        asked = setting.task.meta.name == "retrained-mini" and setting.task.options.query_set == "tuning"
        return Trains() if asked else None


class TellsQuerySet(OpenGroundTruth):
    """It says which queries it was measured on."""

    depth = 1
    summary = "tells the query set"

    def __init__(self, query_set):
        self._query_set = query_set

    def measure(self, outcome, seed, stage):
        return Effect(notes=[f"measured on the {self._query_set} queries"])


class OnlyNamed(GroundTruth[Options]):
    """It is measured where it is named."""

    name = "only-named"
    summary = "tells the query set"
    Options = Options
    by_default = False

    def open(self, setting):
        return TellsQuerySet(setting.task.options.query_set)


class Retrained(Lying):
    """Its tuning queries have a ground truth."""

    meta = meta("retrained-mini")


class Untuned(Lying):
    """Without tuning queries."""

    meta = meta("untuned-mini")
    tuning = {}  # noqa: RUF012


class PlaceOptions(Options):
    place: int = 0
    """Which place is believed; beyond them the method fails."""


class Place(Method[PlaceOptions]):
    """An item scores by whether it says at one place what the query does."""

    name = "place"
    summary = "one place of a picture"
    Options = PlaceOptions

    def features(self):
        return FeatureRequest.both(Images())

    def fit(self, train, context):
        if self.options.place > 1:
            raise AttrbenchError("there is no such place")
        return PlaceScorer(train[Images()], self.options.place)


class PlaceScorer(ExhaustiveScorer):
    def __init__(self, images, place):
        self._images, self._place = images, place

    def scores(self, query):
        mine, theirs = (pixels[:, self._place, 0, 0] for pixels in (query[Images()], self._images))
        return (mine[:, None] == theirs[None]).astype("f4")

    def size(self):
        return StateSize(rows=self._images.nbytes)


@pytest.fixture
def tune(monkeypatch, attrbench, tmp_path):
    plugin = plugin_of(
        tasks=[Lying, Lying2, Retrained, Untuned], methods=[Place], ground_truths=[OfTuningQueries, OnlyNamed]
    )
    registry = load_registry()
    registry.load(Plugin("lying", "attrbench-tests", "1"), lambda: plugin)
    monkeypatch.setattr("attrbench.plugins.registry.registry", lambda: registry)

    def run(*arguments, task="lying-mini"):
        return attrbench(
            "tune", "-t", task, "--out", tmp_path, "--device", "cpu", "--by", "detection-rate@5", *arguments
        )

    return run


def reported(folder) -> list[Record]:
    records, problems = read_records(folder)
    assert not problems
    return records


def test_the_tuning_queries_choose_and_the_reported_ones_do_not(tune, tmp_path):
    done = tune("-m", "place:place=1|0")
    assert done.code == 0, done.err
    (record,) = reported(tmp_path)
    assert record.method.label == "place:place=0"  # which lies on the reported queries, where place=1 would do better
    assert record.metric("detection-rate@5").value < 0.1
    tuned = record.tuned
    assert (tuned.sweep, tuned.by, tuned.queries) == ("place:place=1|0", "detection-rate@5", QUERIES)
    assert tuned.task == "lying-mini:query_set=tuning"
    assert [tried.label for tried in tuned.tried] == ["place:place=1", "place:place=0"]
    assert tuned.tried[0].value < 0.1 and tuned.tried[1].value == pytest.approx(0.8)
    assert "place:place=0 (tuned) on lying-mini: " in done.out
    (chosen,) = [line for line in done.out.splitlines() if "chosen" in line]
    assert "place:place=0" in chosen and "0.800" in chosen


def test_the_command_of_the_record_repeats_it_and_finds_it(tune, tmp_path, attrbench):
    tune("-m", "place:place=1|0")
    (record,) = reported(tmp_path)
    assert record.command == "attrbench tune -m 'place:place=1|0' -t lying-mini --by detection-rate@5"
    again = attrbench(*record.command.replace("'", "").split()[1:], "--out", tmp_path, "--device", "cpu")
    assert again.code == 0 and "already there" in again.out
    assert len(reported(tmp_path)) == 1


def test_a_tuned_record_is_another_than_that_of_the_same_options_given(tune, tmp_path, attrbench):
    attrbench("run", "-m", "place:place=0", "-t", "lying-mini", "--out", tmp_path, "--device", "cpu")
    done = tune("-m", "place:place=1|0")
    assert "already there" not in done.out
    given, chosen = sorted(reported(tmp_path), key=lambda record: record.tuned is not None)
    assert given.tuned is None and chosen.tuned is not None
    assert given.ranking == chosen.ranking and given.identity != chosen.identity
    shown = attrbench("leaderboard", tmp_path).out
    lines = [line.split() for line in shown.splitlines() if "place:place=0" in line]
    assert sorted("†" in line for line in lines) == [False, True]
    assert "options chosen by detection-rate@5 on 6 tuning queries" in " ".join(shown.split())
    rows = json.loads(attrbench("leaderboard", tmp_path, "--format", "json").out)[0]["rows"]
    assert sorted(row["tuned_from"] or "" for row in rows) == ["", "place:place=1|0"]


def test_of_one_sweep_only_the_newest_choice_stands_on_the_leaderboard(tune, tmp_path, attrbench):
    tune("-m", "place:place=1|0")
    (record,) = reported(tmp_path)
    (path,) = (tmp_path / "lying-mini").glob("*.json")
    method = record.method.model_copy(update={"options": {"place": 1}, "label": "place:place=1"})
    older = record.model_copy(update={"method": method, "identity": "0" * 64, "created": "2020-01-01T00:00:00+00:00"})
    path.with_name("older.json").write_text(older.model_dump_json())
    shown = attrbench("leaderboard", tmp_path).out
    assert "place:place=0 †" in shown and "place:place=1" not in shown


def test_tuning_runs_are_kept_apart_and_serve_the_next_choice(tune, tmp_path, attrbench):
    tune("-m", "place:place=1|0")
    kept = tmp_path / "cache" / TUNING_RUNS
    assert len(reported(kept)) == 2
    assert "query_set=tuning" not in attrbench("leaderboard", tmp_path).out
    assert "query_set=tuning" in attrbench("leaderboard", kept).out
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*.json")}
    tune("-m", "place:place=0|1")
    assert before == {path: path.stat().st_mtime_ns for path in kept.rglob("*.json")}


def test_values_written_otherwise_find_their_tuning_runs(tune, tmp_path):
    """A record is found by what decides it, whatever it was called when it was made."""
    tune("-m", "place:place=1|0")
    done = tune("-m", "place:place=00|+1")
    assert done.code == 0
    assert [tried.value for tried in reported(tmp_path)[-1].tuned.tried].count(None) == 0
    both = tune("-m", "place:place=1|0", "-m", "place:place=0|-1")
    assert both.code == 0
    assert all(tried.value is not None for record in reported(tmp_path) for tried in record.tuned.tried)


def test_each_task_has_its_own_choice_and_one_without_any_holds_up_no_other(tune, tmp_path):
    done = tune("-m", "place:place=7|8", "-t", "lying2-mini")
    assert done.code == 1
    assert done.out.count("tuning queries") == 2


def test_no_model_is_trained_for_a_choice(tune, tmp_path):
    done = tune("-m", "place:place=1|0", task="retrained-mini")
    assert done.code == 0, done.err
    assert "retraining: left out, as options are being chosen" in done.err
    assert [record.method.label for record in reported(tmp_path)] == ["place:place=0"]


def test_a_named_ground_truth_is_measured_of_the_choice_alone_and_the_records_command_names_it(
    tune, tmp_path, attrbench
):
    done = tune("-m", "place:place=1|0", "--ground-truth", "only-named")
    assert done.code == 0, done.err
    (record,) = reported(tmp_path)
    assert record.notes == ["measured on the reported queries"]
    assert [tried.notes for tried in reported(tmp_path / "cache" / TUNING_RUNS)] == [[], []]
    again = attrbench(*record.command.replace("'", "").split()[1:], "--out", tmp_path, "--device", "cpu")
    assert again.code == 0 and "already there" in again.out


def test_of_equal_values_the_first_is_chosen(tune, tmp_path):
    tune("-m", "place:place=0|-1")  # the last place of two is the second
    tune("-m", "place:place=-1|1")
    labels = sorted(record.method.label for record in reported(tmp_path))
    assert labels == ["place:place=-1", "place:place=0"]


def test_a_value_that_fails_is_shown_and_not_chosen(tune, tmp_path):
    done = tune("-m", "place:place=7|1|0")
    assert done.code == 1
    assert "1 value failed on the tuning queries and could not be chosen: place:place=7" in done.err
    (record,) = reported(tmp_path)
    assert record.method.label == "place:place=0"
    assert record.tuned.tried[0].value is None and "no such place" in record.tuned.tried[0].why
    assert "there is no such place" in done.out


def test_a_value_that_failed_once_and_ran_later_is_told_so_by_the_record(tune, tmp_path, monkeypatch):
    sound = Place.fit

    def fit(self, train, context):
        if self.options.place == 1:
            raise OSError("a disk failed")
        return sound(self, train, context)

    with monkeypatch.context() as patch:
        patch.setattr(Place, "fit", fit)
        assert tune("-m", "place:place=1|0").code == 1
    assert tune("-m", "place:place=1|0").code == 0
    (record,) = reported(tmp_path)
    assert [tried.why for tried in record.tuned.tried] == ["", ""]


def test_where_all_values_fail_the_other_choices_are_run_and_the_command_fails(tune, tmp_path):
    done = tune("-m", "place:place=7|8", "-m", "place:place=1|0")
    assert done.code == 1
    (line,) = done.complaint
    assert "-m place:place=7|8: no value has a result on the tuning queries; place:place=7:" in line
    assert [record.method.label for record in reported(tmp_path)] == ["place:place=0"]


@pytest.mark.parametrize(
    ("arguments", "pieces"),
    [
        (("-m", "place:place=0"), ["-m place:place=0: there is nothing to choose from", "damping=0.01|0.1|1"]),
        (("-m", "all"), ["-m all: name the method"]),
        (("-m", "place:place=0|1", "--by", "recal@5"), ["unknown metric 'recal@5'", "did you mean recall"]),
        (("-m", "place:place=0|1", "--by", "recall@7"), ["gives no recall@7", "use --by", "recall@5"]),
        (("-m", "place:place=0|1", "-t", "untuned-mini"), ["untuned-mini has no tuning queries"]),
        (("-m", "place:place=0|1", "-t", "lying-mini:query_set=tuning"), ["nothing is reported on them"]),
        (("-m", "place:place=0|1", "-t", "mnist-removal-mini"), ["mnist-removal-mini has no tuning queries"]),
        (("-m", "place:place=0|x"), ["method place: place=x"]),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_line_and_nothing_is_run(attrbench, tune, tmp_path, arguments, pieces):
    task = () if "-t" in arguments else ("-t", "lying-mini")
    done = attrbench("tune", *arguments, *task, "--out", tmp_path, "--device", "cpu")
    assert done.code == 2
    (line,) = done.complaint
    assert all(piece in line for piece in pieces), line
    assert not list(tmp_path.glob("*-mini"))


def test_the_best_at_an_end_of_a_sweep_asks_for_a_wider_one(tune):
    assert (
        "place=0 is the smallest value that was tried: a better one may lie beyond" in tune("-m", "place:place=0|1").out
    )
    assert "was tried" not in tune("-m", "place:place=-1|0|1").out
    assert "was tried" not in tune("-m", "place:place=-2|0").out  # the same place, and so nothing lies that way


def test_dampings_of_a_shipped_method_are_chosen_over_shared_features(attrbench, tmp_path, cache):
    sweeps = [f"{method}:v=64,timesteps=2,damping=0.01|0.1" for method in ("d-trak", "das")]
    methods = [part for sweep in sweeps for part in ("-m", sweep)]
    done = attrbench("tune", *methods, *SMALL, "--out", tmp_path, "--cache", cache)
    assert done.code == 0, done.err
    records = reported(tmp_path)
    assert {record.status for record in records} == {"limited"}
    assert sorted(record.tuned.sweep for record in records) == sorted(sweeps)
    for record in records:
        best = max(tried.value for tried in record.tuned.tried)
        assert next(t.label for t in record.tuned.tried if t.value == best) == record.method.label
        assert record.tuned.task == "digits-mini:queries_per_group=1,query_set=tuning"
    noted = done.err.splitlines()
    computed = [line for line in noted if "of train items" in line and "0 of" not in line]
    assert len(computed) == 3  # squared-norm, mean, losses: once for both sets of queries and all values


def test_the_executor_takes_options_as_it_does_in_a_run(tune, tmp_path):
    assert tune("-m", "place:place=1|0", "--executor", "processes:2").code == 0
    assert len(reported(tmp_path)) == 1
    done = tune("-m", "place:place=1|0", "--executor", "processes:none=1")
    assert done.code == 2
    assert "executor" in done.err
