"""The retrained models' effects that ship with tasks: read for the queries they were measured on, and no others."""

import pytest
import torch

from attrbench.contracts.ground_truth import ShipsBanks
from attrbench.contracts.task import Workspace
from attrbench.evaluation.requests import request_tasks
from attrbench.ground_truth.bank import read_bank
from attrbench.plugins.registry import registry
from attrbench_tasks.shipped_weights import GROUND_TRUTH

SHIPPED = sorted(GROUND_TRUTH.glob("*.safetensors"))
HALVES = {"digits-mini": 24, "mnist14-mini": 10, "sd14-lora-mini": 32, "sd3-lora-mini": 32, "planted-lora-mini": 16}
"""Random halves that a task's bank has at least."""
TUNED = {"digits-mini": 12, "sd14-lora-mini": 12, "sd3-lora-mini": 12}
"""Those of a bank for its tuning queries."""


def task_of(label):
    return request_tasks(registry(), [label])[0].task


def read(path, folder):
    """Return the task of a shipped bank, that task open, and the bank."""
    name, _, design = path.stem.rpartition("-")
    tuning = name.removesuffix("-tuning") != name
    task = task_of(name.removesuffix("-tuning") + ":query_set=tuning" * tuning)
    assert isinstance(task, ShipsBanks) and task.bank(design) == path
    opened = task.open(Workspace(folder, torch.device("cpu")))
    return task, opened, read_bank(path, task, opened, design)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_bank_is_read_by_its_task_and_is_under_a_megabyte(path, tmp_path):
    task, opened, bank = read(path, tmp_path)
    tuning = task.options.query_set == "tuning"
    halves = (TUNED if tuning else HALVES)[task.meta.name]
    expected = halves if bank.facts.plan.design == "subsets" else 1 + len(set(opened.train.groups) - {""})
    assert bank.losses.shape[1] == bank.facts.plan.seeds >= 2 - tuning and len(bank.members) >= expected
    assert path.stat().st_size < 2**20


@pytest.mark.parametrize("name", TUNED)
def test_options_are_chosen_by_models_of_other_halves_than_the_reported_ones(name, tmp_path):
    banks = [task_of(label).bank("subsets") for label in (name, f"{name}:query_set=tuning")]
    reported, tuning = ({half.tobytes() for half in read(path, tmp_path)[2].members} for path in banks)
    assert reported and tuning and not reported & tuning


def test_other_queries_ask_for_another_file():
    others = ("queries_per_group=1", "query_set=tuning", "query_set=tuning,queries_per_group=2")
    paths = [task_of(label).bank("subsets") for label in ("digits-mini", *(f"digits-mini:{each}" for each in others))]
    assert len(set(paths)) == len(paths) and len({path.parent for path in paths}) == 1


def test_options_that_leave_the_queries_as_they_are_keep_the_bank():
    for label in ("digits-mini:queries_per_group=10", "digits-mini:query_set=reported"):
        assert task_of(label).bank("groups") == task_of("digits-mini").bank("groups")
