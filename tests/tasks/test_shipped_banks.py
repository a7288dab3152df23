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
HALVES = {"digits-mini": 24, "sd14-lora-mini": 32, "sd3-lora-mini": 28, "planted-lora-mini": 16}
"""Random halves that a task's bank has at least."""


def task_of(label):
    return request_tasks(registry(), [label])[0].task


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_bank_is_read_by_its_task_and_is_under_a_megabyte(path, tmp_path):
    name, _, design = path.stem.rpartition("-")
    task = task_of(name)
    assert isinstance(task, ShipsBanks) and task.bank(design) == path
    opened = task.open(Workspace(tmp_path, torch.device("cpu")))
    bank = read_bank(path, task, opened, design)
    expected = 1 + len(set(opened.train.groups) - {""}) if design == "groups" else HALVES[name]
    assert bank.losses.shape[1] == bank.facts.plan.seeds >= 2 and len(bank.members) >= expected
    assert path.stat().st_size < 2**20


@pytest.mark.parametrize("options", ["queries_per_group=1", "query_set=tuning", "query_set=tuning,queries_per_group=2"])
def test_other_queries_ask_for_another_file(options):
    paths = [task_of(label).bank("subsets") for label in ("digits-mini", f"digits-mini:{options}")]
    assert paths[0].is_file() and not paths[1].exists() and paths[0].parent == paths[1].parent


def test_options_that_leave_the_queries_as_they_are_keep_the_bank():
    for label in ("digits-mini:queries_per_group=10", "digits-mini:query_set=reported"):
        assert task_of(label).bank("groups") == task_of("digits-mini").bank("groups")
