"""A bank's models are trained again from its recipe, and a bank that holds other losses is found out."""

from dataclasses import replace

import numpy as np
import pytest

from attrbench.evaluation import bank_run
from attrbench.evaluation.progress import Silent
from attrbench.ground_truth.bank import BankPlan, built_bank
from attrbench.ground_truth.build import BankBuild, Code
from attrbench.ground_truth.rebuild import TOLERANCE, loss_error, rebuild
from tests.ground_truth.tiny_trainable import setting
from tests.tasks.tiny_removal import no_stage

PLAN = BankPlan(subsets=4, seeds=2, steps=3, draws=2)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return setting(tmp_path_factory.mktemp("rebuild"))


@pytest.fixture(scope="module")
def bank(opened):
    work = BankBuild(opened, PLAN)
    work.train(no_stage)
    return work.bank(Code("digest", None))


def test_models_trained_again_have_the_losses_of_the_bank(bank, opened, tmp_path):
    models = rebuild(setting(tmp_path), bank, 3, no_stage)
    assert [(model.number, model.seed) for model in models] == [(0, 0), (2, 1), (3, 0)]
    assert max(model.error for model in models) < 1e-3
    assert len(rebuild(setting(tmp_path), bank, 9, no_stage)) == 4


def test_losses_of_another_subset_are_no_reproduction(bank):
    errors = [
        loss_error(bank, place, seed, bank.losses[other, seed])
        for place in range(4)
        for seed in range(2)
        for other in range(4)
        if other != place
    ]
    assert min(errors) > TOLERANCE
    assert loss_error(bank, 1, 1, bank.losses[1, 1]) == 0


def test_a_difference_of_one_spread_has_the_error_one(bank):
    spread = bank.losses.astype(np.float64).mean(axis=(1, 3)).std(axis=0, ddof=1)
    assert loss_error(bank, 0, 0, bank.losses[0, 0] + spread[:, None]) == pytest.approx(1, rel=1e-4)


def test_the_bank_below_the_cache_is_verified_without_its_models(bank, opened, monkeypatch):
    path = built_bank(opened.task, opened.workspace.cache)
    bank.write(path)
    models = bank_run.verify_bank(opened.task, "subsets", opened.workspace.cache, "cpu", Silent(), 2)
    assert [model.is_same for model in models] == [True, True]
    moved = bank.losses + 10 * bank.losses.std()
    replace(bank, losses=moved).write(path)
    models = bank_run.verify_bank(opened.task, "subsets", opened.workspace.cache, "cpu", Silent(), 2)
    assert [model.is_same for model in models] == [False, False]
    path.unlink()
    with pytest.raises(bank_run.AttrbenchError, match="has no bank of the design 'subsets'"):
        bank_run.verify_bank(opened.task, "subsets", opened.workspace.cache, "cpu", Silent(), 2)
