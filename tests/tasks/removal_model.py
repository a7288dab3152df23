"""The model that the tiny removal task is about, its folder of results, and the names of its controls."""

import pytest
import torch

from attrbench.ground_truth.removal import MATCHED, PIXEL, RANDOM
from attrbench_tasks.training.train_ddpm import scaled, train_ddpm
from tests.tasks.tiny_removal import RECIPE, bars

CPU = torch.device("cpu")
THICKEST = "thickest"
CONTROLS = (RANDOM, MATCHED, THICKEST, PIXEL)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A model that was trained by the recipe, on everything."""
    out = tmp_path_factory.mktemp("tiny-removal")
    return train_ddpm(RECIPE, scaled(bars()[0]), out, device=CPU, report=lambda step, loss: None)


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("results")
