"""A bank of models trained without one group each, and what `leave-group-out` makes of it."""

import numpy as np
import pytest

from attrbench.contracts.metric import Outcome
from attrbench.contracts.record import MetricResult
from attrbench.errors import AttrbenchError, Unavailable, UsageError
from attrbench.ground_truth.bank import BankPlan, built_bank, read_bank
from attrbench.ground_truth.bank_truth import BankOptions
from attrbench.ground_truth.build import BankBuild, Code
from attrbench.ground_truth.leave_group_out import LeaveGroupOut, OpenLeaveGroupOut
from attrbench.ground_truth.linear_datamodeling import LinearDatamodeling
from attrbench.ground_truth.subsets import leave_groups_out
from tests.ground_truth.tiny_trainable import QUERIES, TRAIN, setting
from tests.tasks.tiny_removal import no_stage

PLAN = BankPlan(seeds=2, steps=3, draws=1, kind="leave-group-out")
CODE = Code("digest", None)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return setting(tmp_path_factory.mktemp("groups"))


@pytest.fixture(scope="module")
def bank(opened):
    work = BankBuild(opened, PLAN)
    assert work.train(no_stage) == 0
    return work.bank(CODE)


def test_the_models_are_one_on_all_items_and_one_without_each_group(bank, opened):
    groups = np.array(opened.opened.train.groups)
    assert bank.facts.numbers == [0, 1, 2, 3] and bank.losses.shape == (4, 2, QUERIES, 3)
    assert bank.members[0].all() and bank.members.shape == (4, TRAIN)
    for number, name in enumerate(sorted(set(groups)), 1):
        assert set(groups[~bank.members[number]]) == {name} and (groups != name).sum() == bank.members[number].sum()


def test_items_without_a_group_are_never_left_out_and_one_group_is_no_choice():
    whole, a, b = leave_groups_out(["a", "", "b", "a"])
    assert (whole.tolist(), a.tolist(), b.tolist()) == ([0, 1, 2, 3], [1, 2], [0, 1, 3])
    with pytest.raises(UsageError, match="needs two groups"):
        leave_groups_out(["a", "", "a"])


def results(truth, scores) -> dict[str, MetricResult]:
    outcome = Outcome(np.argsort(-scores, axis=1), None, scores.astype(np.float32))
    return {result.metric: result for result in truth.measure(outcome, 0, no_stage).metrics}


def test_scores_that_are_the_effects_win_and_opposite_scores_lose(bank):
    truth = OpenLeaveGroupOut(bank)
    losses = bank.losses.astype(np.float64).mean(axis=(1, 3))
    rise = (losses[1:] - losses[0]).T  # [m, G]
    left_out = ~bank.members[1:]
    items = rise @ (left_out / left_out.sum(axis=1, keepdims=True))
    best, worst = results(truth, items), results(truth, -items)
    assert set(best) == {
        *("group-top1", "group-ndcg3", "group-spearman", "group-top1-pixels", "group-top1-features"),
        *("group-precision", "group-precision-pixels", "group-precision-features"),
    }
    assert best["group-top1"].value == best["group-spearman"].value == pytest.approx(1)
    assert worst["group-top1"].value == 0 and worst["group-spearman"].value == pytest.approx(-1)
    assert best["group-top1"].random == pytest.approx(1 / 3) and len(best["group-top1"].per_query) == QUERIES


def test_a_ranking_alone_has_the_precision_of_the_top_group_beside_chance_and_other_seeds(bank):
    truth = OpenLeaveGroupOut(bank)
    losses = bank.losses.astype(np.float64).mean(axis=3)  # [J, S, m]
    rise = losses[1:] - losses[0]
    left_out, top = ~bank.members[1:], rise.mean(axis=1).argmax(axis=0)
    ranked = np.stack([np.flatnonzero(left_out[group])[:8] for group in top])
    whole = np.concatenate([ranked, np.stack([np.flatnonzero(~left_out[group])[:4] for group in top])], axis=1)
    effect = truth.measure(Outcome(whole, None, None), 0, no_stage)
    found = {result.name: result for result in effect.metrics}
    assert set(found) == {"group-precision@10", "group-precision-pixels@10", "group-precision-features@10"}
    result = found["group-precision@10"]
    assert result.value == pytest.approx(0.8) and result.random == pytest.approx(1 / 3)
    agree = np.mean(rise[:, 0].argmax(axis=0) == rise[:, 1].argmax(axis=0))
    assert result.ceiling == pytest.approx(0.8 * agree) and len(result.per_query) == QUERIES


def test_a_ranking_that_is_too_short_has_no_precision(bank):
    ranked = np.tile(np.arange(9), (QUERIES, 1))
    assert not OpenLeaveGroupOut(bank).measure(Outcome(ranked, None, None), 0, no_stage).metrics


def test_facts_have_the_means_and_maxima_and_a_ranking_alone_is_no_answer_to_scores(bank):
    truth = OpenLeaveGroupOut(bank)
    scores = np.random.default_rng(0).normal(size=(QUERIES, TRAIN))
    effect = truth.measure(Outcome(np.argsort(-scores), None, scores), 0, no_stage)
    assert {"group_top1_by_mean", "group_spearman_by_max", "groups", "group_seeds"} <= set(effect.facts)
    (note,) = truth.measure(Outcome(np.argsort(-scores), None, None), 0, no_stage).notes
    assert note.startswith("no group-top1, -ndcg3 and -spearman: they need the scores of all items")


def test_each_ground_truth_reads_its_own_banks_only(bank, opened, tmp_path):
    bank.write(built_bank(opened.task, opened.workspace.cache, "groups"))
    assert LeaveGroupOut(BankOptions()).open(opened).summary.startswith("models without one of 3 groups")
    assert LinearDatamodeling(BankOptions()).open(opened) is None
    bank.write(tmp_path / "groups.safetensors")
    with pytest.raises(AttrbenchError, match="of the kind leave-group-out, another ground truth's"):
        LinearDatamodeling(BankOptions(bank=tmp_path / "groups.safetensors")).open(opened)


def test_a_bank_without_the_models_on_all_items_is_unavailable(opened, bank, tmp_path):
    cut = type(bank)(
        bank.losses[1:],
        bank.distances[1:],
        bank.members[1:],
        bank.timesteps,
        bank.facts.model_copy(update={"numbers": [1, 2, 3]}),
    )
    bare = setting(tmp_path)
    cut.write(built_bank(bare.task, tmp_path, "groups"))
    assert read_bank(built_bank(bare.task, tmp_path, "groups"), bare.task, bare.opened, "groups")
    with pytest.raises(Unavailable, match="the models that saw all items are missing"):
        LeaveGroupOut(BankOptions()).open(bare)
