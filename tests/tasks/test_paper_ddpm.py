"""The paper's unconditional tasks, on tiny models and sets."""

import numpy as np
import pytest
import torch
from PIL import Image

from attrbench.contracts.task import Workspace
from attrbench.errors import AttrbenchError
from attrbench_tasks.datasets.labeled_arrays import list_arrays
from attrbench_tasks.dmin_paper import constants as paper
from attrbench_tasks.dmin_paper.ddpm_tasks import DDPMCifar10, DDPMMnist
from attrbench_tasks.minis.query_pictures import CONFIDENCE
from attrbench_tasks.shipped_weights import WEIGHTS
from attrbench_tasks.training import classifier

CPU = torch.device("cpu")
MODEL = str(WEIGHTS / "ddpm-mnist-mini")
MNIST5K = WEIGHTS.parent / "data" / "mnist5k.npz"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """`ddpm-mnist` on the 5,000 images that ship with the package, and a model that they trained."""
    cache = tmp_path_factory.mktemp("cache")
    return DDPMMnist(DDPMMnist.Options(model=MODEL, dataset=str(MNIST5K), queries_per_group=1)).open(
        Workspace(cache, CPU)
    )


def test_arrays_are_the_training_set_and_labels_its_groups(opened):
    with np.load(MNIST5K, allow_pickle=False) as file:
        np.testing.assert_array_equal(opened.train.images[..., 0], file["x"])
        assert list(opened.train.groups) == [str(label) for label in file["y"]]


def test_queries_are_labeled_by_a_classifier_whose_accuracy_is_on_record(opened):
    queries = opened.queries
    assert set(queries.groups) == {str(digit) for digit in range(10)}
    assert len(set(queries.seeds)) == len(queries)
    (note,) = opened.notes
    (folder,) = (path for path in (opened._workspace.cache / "classifiers").iterdir() if path.is_dir())
    accuracy, tested = classifier.accuracy_of(folder)
    assert f"{accuracy:.1%} of {tested}" in note
    assert tested == 500
    assert accuracy > 0.85
    p = classifier.probabilities(classifier.load_classifier(folder), queries.images)
    assert (p.max(1) >= CONFIDENCE).all()
    assert [str(label) for label in p.argmax(1)] == list(queries.groups)


def test_the_classifier_is_trained_once(opened, monkeypatch):
    first = opened.queries
    monkeypatch.setattr(classifier, "train_classifier", None)
    again = opened._task.open(opened._workspace)
    assert again.queries.fingerprint == first.fingerprint


def test_a_folder_a_class_serves_too(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    task = DDPMMnist(DDPMMnist.Options(model=MODEL, dataset=str(tmp_path / "set")))
    train = task.open(Workspace(tmp_path / "cache", CPU)).train
    assert train.images.shape == (6, 28, 28, 1)
    assert list(train.groups) == ["cat"] * 3 + ["dog"] * 3


def test_a_folder_without_classes_is_refused(tmp_path):
    (tmp_path / "set").mkdir()
    Image.new("L", (28, 28)).save(tmp_path / "set" / "a.png")
    task = DDPMMnist(DDPMMnist.Options(model=MODEL, dataset=str(tmp_path / "set")))
    with pytest.raises(AttrbenchError, match=r"no groups.*group_column"):
        task.open(Workspace(tmp_path / "cache", CPU))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros(3)}, "holds a, not x_train"),
        ({"x": np.zeros((3, 4, 4)), "y": np.zeros(3)}, "float64"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.zeros(2)}, "3 images and labels of shape"),
        ({"x": np.zeros((0, 4, 4), np.uint8), "y": np.zeros(0)}, "not uint8"),
    ],
)
def test_other_arrays_are_refused_in_one_line(tmp_path, arrays, words):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(AttrbenchError, match=words):
        list_arrays(tmp_path / "set.npz")


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(AttrbenchError, match="no such file"):
        list_arrays(tmp_path / "none.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(AttrbenchError, match="no readable"):
        list_arrays(tmp_path / "broken.npz")


def test_color_arrays_have_three_channels(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", x_train=x, y_train=np.arange(3))
    listing = list_arrays(tmp_path / "set.npz")
    np.testing.assert_array_equal(np.asarray(listing.open(2)), x[2])
    assert list(listing.groups) == ["0", "1", "2"]


@pytest.mark.parametrize("kind", [DDPMMnist, DDPMCifar10])
def test_ids_are_those_of_the_paper_and_a_label_is_a_group(kind):
    task = kind(kind.Options())
    assert task.model.model in (paper.DDPM_MNIST, paper.DDPM_CIFAR10)
    assert task.train_source.path in (paper.MNIST, paper.CIFAR10)
    assert (task.train_source.split, task.train_source.group_column) == ("train", "label")
    assert "paper does not say" in kind.meta.notes
