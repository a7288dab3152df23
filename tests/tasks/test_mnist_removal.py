"""The shipped removal tasks have the numbers of paper and recipe, and MNIST comes from a file or a clear refusal."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

import numpy as np
import pytest
import torch

from attrbench.contracts.denoiser import CHECKPOINTS, OTHER_SEED
from attrbench.contracts.task import Workspace
from attrbench.errors import AttrbenchError, UsageError
from attrbench_tasks.datasets.mnist_source import load_mnist
from attrbench_tasks.removal.mnist_removal import MnistRemoval, MnistRemovalMini, PaperRemovalOptions
from attrbench_tasks.removal.removal_task import RemovalOptions
from attrbench_tasks.training.train_ddpm import is_trained
from tests.tasks.removal_model import (
    CPU,
    folder,  # noqa: F401
)
from tests.tasks.tiny_removal import ITEMS, tiny_task


def test_the_shipped_mini_is_what_its_recipe_made():
    task = MnistRemovalMini(RemovalOptions())
    assert is_trained(task.model(), task.recipe())
    images, digits = task.data()
    assert images.shape == (5000, 14, 14, 1) and np.bincount(digits).tolist() == [500] * 10
    opened = task.open(Workspace(task.model(), CPU))
    parameters = dict(opened.denoiser.module.named_parameters())
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    sizes = {path: path.stat().st_size for path in task.model().rglob("*") if path.is_file()}
    other = task.model() / CHECKPOINTS / f"{OTHER_SEED}.safetensors"
    assert sizes.pop(other) < 500_000 and sum(sizes.values()) < 500_000


def test_the_papers_numbers_are_the_defaults_of_the_full_task():
    options = PaperRemovalOptions()
    assert (options.generations, options.queries, options.top_k, options.removal) == (5000, 500, 1000, "union")
    assert (options.removed, options.seeds, MnistRemoval.meta.train_items) == (14_562, 3, 60_000)


def test_wrong_options_are_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="more than the 10 generations"):
        RemovalOptions(generations=10, queries=11)
    with pytest.raises(UsageError, match="would leave nothing"):
        tiny_task(folder, removed=ITEMS).open(Workspace(tmp_path, None))


def test_without_a_model_the_full_task_says_how_to_train_one(tmp_path):
    for options in ({}, {"model": str(tmp_path)}):
        with pytest.raises(AttrbenchError, match="attrbench train mnist-removal --out"):
            MnistRemoval(PaperRemovalOptions(**options)).open(Workspace(tmp_path, None))


@pytest.mark.parametrize("names", [("x_train", "y_train"), ("x", "y")])
def test_mnist_comes_from_a_file(tmp_path, names):
    images, digits = np.arange(3 * 784).reshape(3, 28, 28).astype(np.uint8), np.array([5, 0, 4], np.uint8)
    np.savez(tmp_path / "m.npz", **dict(zip(names, (images, digits), strict=True)))
    loaded, labels = load_mnist(str(tmp_path / "m.npz"), 3)
    assert np.array_equal(loaded[..., 0], images) and labels.tolist() == [5, 0, 4] and labels.dtype == np.int64
    with pytest.raises(AttrbenchError, match=r"is uint8 \(4, 28, 28\)"):
        load_mnist(str(tmp_path / "m.npz"), 4)


def test_files_that_are_not_mnist_are_named_in_one_line(tmp_path):
    with pytest.raises(AttrbenchError, match="there is no such file"):
        load_mnist(str(tmp_path / "none.npz"), 3)
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    with pytest.raises(AttrbenchError, match="no readable"):
        load_mnist(str(tmp_path / "bad.npz"), 3)
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    with pytest.raises(AttrbenchError, match="holds a, not x_train"):
        load_mnist(str(tmp_path / "other.npz"), 3)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AttrbenchError, match="dataset=FILE") as caught:
        load_mnist("nobody/no-such-data", 3)
    assert "\n" not in str(caught.value)


def test_a_changed_model_or_data_file_is_another_task(tmp_path):
    (tmp_path / "model").mkdir()
    file, weights = tmp_path / "m.npz", tmp_path / "model" / "weights"
    file.write_text("a")
    weights.write_text("a")
    task = MnistRemoval(PaperRemovalOptions(dataset=str(file), model=str(tmp_path / "model")))
    states = [task.state()]
    for changed in (file, weights):
        changed.write_text("other")
        states.append(task.state())
    assert len({str(state) for state in states}) == 3
