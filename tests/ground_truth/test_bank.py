"""A bank of subset models: built in slices, read back only where it fits, and what a run makes of it."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from attrbench.cli.app import main
from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.method import Method
from attrbench.contracts.metric import Outcome
from attrbench.contracts.options import Options, Spec
from attrbench.contracts.task import Task
from attrbench.errors import AttrbenchError, Unavailable, UsageError
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.record_tasks import RecordTasks
from attrbench.evaluation.requests import TaskRequest, request_methods
from attrbench.evaluation.rescore import rescore
from attrbench.evaluation.task_run import TaskRun
from attrbench.ground_truth import bank_truth
from attrbench.ground_truth.bank import KEY, BankPlan, built_bank, read_bank
from attrbench.ground_truth.bank_truth import BankOptions
from attrbench.ground_truth.build import BankBuild, Code
from attrbench.ground_truth.linear_datamodeling import LinearDatamodeling, OpenLinearDatamodeling
from attrbench.ground_truth.losses import QueryLosses
from attrbench.ground_truth.retraining import measured
from attrbench.plugins import registry as registry_module
from attrbench.plugins.registry import Plugin, load_registry
from attrbench.reports.columns import cells_with_reason, request_columns
from attrbench.reports.ranking import build_tables
from attrbench.store.checksums import seal_path
from tests.ground_truth.tiny_trainable import QUERIES, TRAIN, Shipping, TinyTrainable, TopScorer, setting
from tests.registering import plugin_of
from tests.tasks.tiny_removal import no_stage

PLAN = BankPlan(subsets=6, seeds=2, steps=6, draws=2)
CODE = Code("digest", "revision")
BANDS = {"lds-low-noise", "lds-middle-noise", "lds-high-noise"}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return setting(tmp_path_factory.mktemp("bank"))


@pytest.fixture(scope="module")
def build(opened):
    """A bank that was built in two slices."""
    work = BankBuild(opened, PLAN)
    assert work.bank(CODE) is None
    assert work.train(no_stage, limit=5) == 7
    part = work.bank(CODE)
    assert part.facts.numbers == [0, 1] and part.losses.shape == (2, 2, QUERIES, 6)
    assert BankBuild(opened, PLAN).train(no_stage) == 0
    return work


@pytest.fixture
def path(build, opened, tmp_path):
    build.bank(CODE).write(tmp_path / "bank.safetensors")
    return tmp_path / "bank.safetensors"


def test_a_bank_comes_back_as_it_was_written(build, opened, path):
    made, bank = build.bank(CODE), read_bank(path, opened.task, opened.opened)
    assert bank.facts == made.facts and bank.facts.plan == PLAN and bank.facts.code == "digest"
    assert bank.losses.shape == (6, 2, QUERIES, 6) and bank.losses.dtype == np.float32
    assert bank.facts.distances == ["pixels", "features"] and np.array_equal(bank.distances, made.distances)
    assert np.array_equal(bank.losses, made.losses) and np.array_equal(bank.members, made.members)
    assert bank.members.sum(axis=1).tolist() == [TRAIN // 2] * 6
    assert list(bank.timesteps) == [0, 3, 6, 9, 12, 15]
    assert path.stat().st_size < 20_000


def test_each_loss_is_that_of_the_model_trained_on_the_subset(build, opened, tmp_path):
    bank = build.bank(CODE)
    subset, task = np.flatnonzero(bank.members[3]), opened.task
    folder = task.train(subset, 1, tmp_path / "model", opened.workspace.device, lambda line: None)
    again = QueryLosses(6, 2).losses(task.trained(folder, opened.workspace), opened.opened.queries)
    assert bank.losses[3, 1] == pytest.approx(again, rel=1e-5)
    assert np.ptp(bank.losses.mean(axis=3), axis=0).min() > 0


def test_more_subsets_or_seeds_keep_the_models_that_are_there(build, opened):
    known = {job.path for job in build.jobs}
    larger = BankBuild(opened, PLAN.model_copy(update={"subsets": 8, "seeds": 3}))
    assert known < {job.path for job in larger.jobs} and len(larger.jobs) == 24
    assert set(measured(build.jobs[0])) == {"losses", "pixels", "features"}


def test_a_bank_is_enlarged_where_its_models_are_not_at_hand(build, opened, path, tmp_path):
    elsewhere = setting(tmp_path / "elsewhere")
    bank = read_bank(path, elsewhere.task, elsewhere.opened)
    larger = BankBuild(elsewhere, PLAN.model_copy(update={"subsets": 7, "seeds": 3}))
    assert larger.take(bank) == 12 and larger.take(bank) == 0
    told = []
    assert larger.train(no_stage, limit=0, note=told.append) == 9 and told == ["12 of 21 models are there"]
    smaller = BankBuild(elsewhere, PLAN.model_copy(update={"subsets": 4, "seeds": 1}))
    assert smaller.train(no_stage, limit=0) == 0
    found = smaller.bank(CODE)
    assert np.array_equal(found.losses, bank.losses[:4, :1])
    assert np.array_equal(found.distances, bank.distances[:4, :1])
    assert np.array_equal(found.members, bank.members[:4])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"subset_seed": 1}, "subset seed 0 there and 1 here"),
        ({"draws": 3}, "draws 2 there and 3 here"),
        ({"steps": 5}, "steps"),
        ({"alpha": 0.4}, "alpha 0.5 there and 0.4 here"),
        ({"kind": "bernoulli"}, "kind fixed there and bernoulli here"),
        ({"noise_seed": 1}, "noise seed"),
    ],
)
def test_models_of_another_plan_are_not_taken(path, opened, changes, reason, tmp_path):
    elsewhere = setting(tmp_path / "elsewhere")
    bank = read_bank(path, elsewhere.task, elsewhere.opened)
    work = BankBuild(elsewhere, PLAN.model_copy(update=changes))
    assert work.take(bank) == 0
    (told,) = work.differences(bank)
    assert reason in told


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipe": {"steps": 11}}, "another recipe"),
        ({"retraining": 1}, "retraining of version 1 there"),
        ({"queries": "f" * 64}, "other queries"),
        ({"train": "f" * 64}, "another training set"),
    ],
)
def test_models_of_another_recipe_or_other_queries_are_not_taken(path, opened, changes, reason, tmp_path):
    elsewhere = setting(tmp_path / "elsewhere")
    bank = read_bank(path, elsewhere.task, elsewhere.opened)
    other = replace(bank, facts=bank.facts.model_copy(update=changes))
    work = BankBuild(elsewhere, PLAN)
    assert work.take(other) == 0
    (told,) = work.differences(other)
    assert reason in told


def damaged(path, **changes):
    """The bank with some of its metadata or arrays replaced, as somebody else might have written it, without a seal."""
    seal_path(path).unlink()
    with safe_open(path, framework="numpy") as file:
        facts = json.loads(file.metadata()[KEY])
    arrays = load_file(path)
    arrays |= {name: value for name, value in changes.items() if name in arrays}
    facts |= {name: value for name, value in changes.items() if name not in arrays}
    save_file(arrays, path, {KEY: json.dumps(facts)})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": "other-task"}, "made for other-task version 1, not for tiny-trainable version 1"),
        ({"version": 2}, "made for tiny-trainable version 2"),
        ({"train": "f" * 64}, r"made with other training set \(ffffffff\)"),
        ({"queries": "f" * 64}, r"made with other queries \(ffffffff\)"),
        ({"numbers": [0, 1]}, "numbers instead of"),
        ({"losses": np.full((6, 2, QUERIES, 6), np.nan, np.float32)}, "a loss of subset 0 is not finite"),
        ({"distances": np.full((6, 2, QUERIES, 2), np.inf, np.float32)}, "a distance of subset 0 is not finite"),
        ({"distances": np.ones((6, 2, QUERIES, 1), np.float32)}, "numbers instead of"),
        ({"plan": "none"}, "not a readable bank"),
        ({"format": 9}, "not a readable bank"),
    ],
)
def test_a_bank_that_does_not_fit_is_refused_in_one_line(path, opened, changes, reason):
    damaged(path, **changes)
    with pytest.raises(AttrbenchError, match=reason) as caught:
        read_bank(path, opened.task, opened.opened)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_files_that_are_no_banks_are_refused_in_one_line(tmp_path, opened):
    with pytest.raises(AttrbenchError, match="there is no such file"):
        read_bank(tmp_path / "none", opened.task, opened.opened)
    (tmp_path / "x").write_bytes(b"not a bank")
    with pytest.raises(AttrbenchError, match="not a readable bank"):
        read_bank(tmp_path / "x", opened.task, opened.opened)


def lds(**options):
    return LinearDatamodeling(BankOptions(**options))


def test_lds_applies_where_there_is_a_bank_built_shipped_or_named(build, path, tmp_path):
    bare = setting(tmp_path / "bare")
    assert lds().open(bare) is None and lds().state(bare.task, tmp_path / "bare") is None
    assert lds(bank=path).open(bare) is not None
    build.bank(CODE).write(built_bank(bare.task, tmp_path / "bare"))
    assert lds().open(bare).summary == "6 subset models with 2 training seeds each, trained already"
    state = lds().state(bare.task, tmp_path / "bare")
    ships = setting(tmp_path / "ships", Shipping)
    ships.task.path = tmp_path / "none"
    assert lds().open(ships) is None
    ships.task.path = path
    assert lds().open(ships) is not None and lds().state(ships.task, tmp_path / "ships") == state
    damaged(path, queries="f" * 64)
    with pytest.raises(Unavailable, match="other queries"):
        lds().open(ships)
    with pytest.raises(AttrbenchError, match="other queries") as caught:
        lds(bank=path).open(ships)
    assert not isinstance(caught.value, Unavailable)


def planted(build, noise, order=None):
    """The bank with losses of a linear world, and the coefficients behind them, another world in each band."""
    rng = np.random.default_rng(0)
    bank, tau = build.bank(CODE), rng.normal(size=(3, QUERIES, TRAIN))
    members = np.stack([np.isin(np.arange(TRAIN), rng.permutation(TRAIN)[:12]) for _ in range(80)])
    order = np.arange(80) if order is None else order
    signal = np.einsum("bqn,jn->jqb", tau, members)[order][:, None].repeat(2, axis=3)
    losses = -signal + noise * rng.normal(size=(80, 2, QUERIES, 6))
    moved = losses.mean(axis=3)[..., None].repeat(2, axis=3)
    return OpenLinearDatamodeling(type(bank)(losses, moved, members, bank.timesteps, bank.facts)), tau


def effect(truth, scores):
    ranked = np.argsort(-scores, axis=1)
    found = truth.measure(Outcome(ranked, None, scores), 0, no_stage)
    return {metric.metric: metric for metric in found.metrics}, found


def test_a_planted_world_is_found_in_its_band_of_timesteps(build):
    truth, tau = planted(build, noise=0)
    whole, _ = effect(truth, tau.mean(axis=0))
    assert whole["lds"].value == pytest.approx(1) and whole["lds"].ceiling == pytest.approx(1)
    assert whole["lds-pixels"].value == whole["lds-features"].value == pytest.approx(1)
    for band, name in enumerate(["lds-low-noise", "lds-middle-noise", "lds-high-noise"]):
        found, _ = effect(truth, tau[band])
        assert found[name].value == pytest.approx(1)
        others = {metric: result.value for metric, result in found.items() if metric in BANDS - {name}}
        assert max(others.values()) < 0.5


def test_noise_lowers_score_and_ceiling_alike_and_permuted_losses_give_0(build):
    truth, tau = planted(build, noise=4.0)
    found, said = effect(truth, tau.mean(axis=0))
    main = found["lds"]
    assert main.low < main.value < main.high and main.value == pytest.approx(main.ceiling, abs=0.1)
    assert 0.3 < said.facts["lds_seed_correlation"] < main.ceiling < 1
    assert said.facts["lds_over_ceiling"] == pytest.approx(main.value / main.ceiling)
    assert main.noise.freedom == 79 and len(main.per_query) == QUERIES
    assert main.value == pytest.approx(np.mean(main.per_query))
    lead = found["lds-over-others"]
    assert lead.low < lead.value < lead.high and lead.value == pytest.approx(lead.ceiling, abs=0.1)
    alike = np.broadcast_to(tau.mean(axis=(0, 1)), tau.shape[1:])  # which items are good for all queries together
    assert effect(truth, alike)[0]["lds-over-others"].value == pytest.approx(0)
    permuted, _ = planted(build, noise=0, order=np.random.default_rng(1).permutation(80))
    nothing = effect(permuted, tau.mean(axis=0))[0]["lds"]
    assert nothing.low < 0 < nothing.high and abs(nothing.value) < 0.2


def test_the_top_alone_is_judged_by_its_items_whatever_is_said_of_the_others(build):
    truth, tau = planted(build, noise=0)
    scores = np.maximum(tau.mean(axis=0), 0)  # what hurts is not in the world's top
    top = np.argsort(-scores, axis=1)
    by_scores, _ = effect(truth, scores)
    without = truth.measure(Outcome(top[:, :10], None), 0, no_stage)
    (only,) = [metric for metric in without.metrics if metric.name == "lds-top@10"]
    assert only == by_scores["lds-top"] and [metric.name for metric in without.metrics] == ["lds-top@10"]
    assert 0.5 < only.value < 1 and only.low < only.value < only.high and only.ceiling == by_scores["lds"].ceiling
    assert not only.criterion and len(only.per_query) == QUERIES
    tail = scores.copy()
    np.put_along_axis(tail, top[:, [11]], -1e6, axis=1)
    misled, _ = effect(truth, tail)  # the same top, and nonsense of one item below it
    assert misled["lds"].value < 0.4 and misled["lds-top"] == only
    assert truth.measure(Outcome(top[:, :9], None), 0, no_stage).metrics == []
    assert without.facts.items() <= effect(truth, scores)[1].facts.items() and "lds_ceiling" in without.facts


class TopOnly(Method[Options]):
    """A search without scores."""

    name = "top-only"
    summary = "a toy"
    Options = Options

    def features(self):
        return FeatureRequest()

    def fit(self, train, context):
        return TopScorer()


@pytest.fixture
def registry(monkeypatch):
    found = load_registry()
    toys = plugin_of(methods=[TopOnly], tasks=[TinyTrainable])
    plugin = Plugin("toys", "tests", "0")
    found.load(plugin, lambda: toys)
    assert plugin.error is None
    monkeypatch.setattr(registry_module, "registry", lambda: found)
    return found


def _rescored_as_run(registry, record, opened):
    """What rescoring finds in the rankings of a record is what the run found, to the bit."""
    tasks = RecordTasks(registry, opened.workspace)
    kept = [metric for metric in record.metrics if not metric.metric.startswith(("lds-top", "group-precision"))]
    facts = {name: value for name, value in record.facts.items() if name != "lds_ceiling"}
    older = record.model_copy(update={"metrics": kept, "facts": facts})
    assert len(kept) < len(record.metrics)
    found = rescore(registry, older, opened.opened, pytest.fail, tasks.truths_of(record))
    by_name = {metric.name: metric for metric in record.metrics}
    assert {metric.name: metric for metric in found.record.metrics} == by_name
    assert found.record.facts == record.facts and not found.wrong and not found.other_models
    other = older.model_copy(update={"facts": {**facts, "lds_subsets": 7.0}})
    found = rescore(registry, other, opened.opened, pytest.fail, tasks.truths_of(record))
    assert "lds-top@10" not in found.added and found.record.facts == other.facts
    assert found.other_models == ["its lds_subsets is 7, and that of the models here is 6"]


def test_a_run_has_lds_in_its_record_and_a_method_without_scores_says_why_not(build, opened, registry, tmp_path):
    cache = opened.workspace.cache
    build.bank(CODE).write(built_bank(opened.task, cache))
    settings = RunSettings(out=tmp_path, cache=cache)
    request = TaskRequest(Spec("tiny-trainable", {}), opened.task)
    methods = request_methods(registry, ["pixel", "random", "top-only"])
    records = {
        r.record.method.name: r.record for r in TaskRun(registry, request, methods, settings, Silent()).results()
    }
    assert {record.status for record in records.values()} == {"complete"}
    for name in ("pixel", "random"):
        main = records[name].metrics[0]
        assert main.metric == "lds" and len(main.per_query) == QUERIES and -1 <= main.value <= 1
        assert main.low < main.value < main.high and main.random == 0 and 0 <= main.ceiling <= 1
        assert records[name].facts["lds_subsets"] == 6 and records[name].facts["lds_training_seeds"] == 2
    assert records["top-only"].metric("lds") is None and records["top-only"].metric("lds-top@10") is not None
    (note,) = [note for note in records["top-only"].notes if "lds" in note]
    assert note == "no lds: it needs the scores of all items, and the method gives only the top"
    (table,) = build_tables(list(records.values()))
    assert table.metric == "lds" and {row.record.method.name for row in table.ranked} == {"pixel", "random"}
    assert note in cells_with_reason(table, table.below[0], request_columns(("method",), [table]))[0]
    again = list(TaskRun(registry, request, methods, settings, Silent()).results())
    assert all(result.reused for result in again)
    for record in records.values():
        _rescored_as_run(registry, record, opened)
    built_bank(opened.task, cache).unlink()
    (record,) = [r.record for r in TaskRun(registry, request, methods[:1], settings, Silent()).results()]
    assert record.metric("lds") is None  # a record with another bank is no answer


def test_a_record_without_a_ground_truth_that_could_not_be_read_is_no_answer_later(
    build, opened, registry, tmp_path, monkeypatch
):
    build.bank(CODE).write(built_bank(opened.task, opened.workspace.cache))
    settings = RunSettings(out=tmp_path, cache=opened.workspace.cache)
    request, methods = TaskRequest(Spec("tiny-trainable", {}), opened.task), request_methods(registry, ["pixel"])

    def run():
        (result,) = TaskRun(registry, request, methods, settings, Silent()).results()
        return result

    def unreadable(*args):
        raise AttrbenchError("input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(bank_truth, "read_bank", unreadable)
        assert run().record.metric("lds") is None
    again = run()
    assert not again.reused and again.record.metric("lds") is not None
    assert run().reused


def test_the_command_builds_in_slices_and_resumes(registry, tmp_path, monkeypatch, capsys):
    def attrbench(*arguments):
        command = ["ground-truth", "build", *arguments, "--device", "cpu", "--cache", str(tmp_path / "cache")]
        monkeypatch.setattr(sys, "argv", ["attrbench", *command])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    small = ("tiny-trainable", "--subsets", "3", "--seeds", "1", "--timesteps", "3", "--draws", "1")
    assert attrbench(*small, "--limit", "1")[:2] == (
        0,
        "2 models are missing, and no two subsets are whole: run the same command again\n",
    )
    code, out, err = attrbench(*small, "--limit", "1")
    assert code == 0 and "1 of 3 models are there" in err and out.startswith("2 of 3 subsets with 1 seeds each are in ")
    code, out, _ = attrbench(*small, "--copy-to", str(tmp_path / "bank.safetensors"))
    assert code == 0 and out.startswith("3 of 3 subsets with 1 seeds each are in ") and "missing" not in out
    opened = setting(tmp_path / "cache")
    bank = read_bank(tmp_path / "bank.safetensors", opened.task, opened.opened)
    assert bank.losses.shape == (3, 1, QUERIES, 3) and len(bank.facts.code) == 64
    code, _, _ = attrbench(*small, "--subset-seed", "1", "--copy-to", str(tmp_path / "other.safetensors"))
    other = read_bank(tmp_path / "other.safetensors", opened.task, opened.opened)
    assert code == 0 and (other.members != bank.members).any() and other.facts.plan.subset_seed == 1
    code, _, err = attrbench("sd3-full-mini:nonsense=1")
    assert code == 2 and len(err.splitlines()) == 1


def test_the_command_trains_no_model_that_ships_unless_asked_to(path, tmp_path, monkeypatch, capsys):
    found = load_registry()
    plugin = Plugin("toys", "tests", "0")
    found.load(plugin, lambda: plugin_of(tasks=[Shipping]))
    monkeypatch.setattr(registry_module, "registry", lambda: found)
    monkeypatch.setattr(Shipping, "path", path, raising=False)

    def build(cache, *more):
        size = ["--subsets", "6", "--seeds", "2", "--timesteps", "6", "--draws", "2", "--limit", "1"]
        where = ["--device", "cpu", "--cache", str(tmp_path / cache)]
        monkeypatch.setattr(sys, "argv", ["attrbench", "ground-truth", "build", "tiny-trainable", *size, *where, *more])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        return capsys.readouterr()

    out, err = build("cache")
    assert "12 models are taken from bank.safetensors, which ships" in err and "12 of 12 models are there" in err
    assert out.startswith("6 of 6 subsets with 2 seeds each are in ")
    for option in ("--anew", "--keep-weights"):
        assert build(f"cache{option}", option).out.startswith("11 models are missing")
    path.write_bytes(path.read_bytes()[:-1])
    out, err = build("damaged")
    assert "nothing is taken from the bank that ships: " in err and "damaged" in err
    assert out.startswith("11 models are missing")


def test_a_task_without_a_recipe_is_refused(opened):
    class Fixed(Task[Options]):
        meta = TinyTrainable.meta
        Options = Options

        def open(self, workspace):
            raise NotImplementedError

    fixed = type(opened)(Fixed(Options()), opened.opened, opened.workspace)
    with pytest.raises(UsageError, match="has no training recipe"):
        BankBuild(fixed, PLAN)
