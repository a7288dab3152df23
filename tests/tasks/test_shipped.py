"""The shipped tasks are what their descriptions say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from attrbench.contracts.task import Workspace
from attrbench_tasks.datasets.registry_mix import FAMILIES
from attrbench_tasks.minis.ddpm_icons import DDPMIconsMini
from attrbench_tasks.minis.ddpm_mnist import DDPMMnistMini
from attrbench_tasks.minis.digits import DigitsMini
from attrbench_tasks.minis.mnist14 import MNIST14Mini
from attrbench_tasks.minis.query_pictures import CONFIDENCE
from attrbench_tasks.shipped_weights import WEIGHTS
from attrbench_tasks.training.classifier import REPORT, load_classifier, probabilities
from attrbench_tasks.training.loop import RECIPE_FILE

TASKS = [DigitsMini, DDPMMnistMini, DDPMIconsMini, MNIST14Mini]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("kind", TASKS)
def test_sets_are_disjoint_and_as_large_as_stated(kind):
    data = kind.data()
    assert len(data.train[0]) == kind.meta.train_items
    seen = {image.tobytes() for image in data.classifier[0]}
    train = {image.tobytes() for image in data.train[0]}
    assert train <= seen or (kind is MNIST14Mini and seen < train)
    assert sum(image.tobytes() in seen for image in data.held_out[0]) == 0


@pytest.mark.parametrize("kind", TASKS)
def test_the_classifier_is_as_good_as_its_report_says(kind):
    task = kind(kind.Options())
    images, labels = kind.data().held_out
    accuracy = (probabilities(load_classifier(task.weights), images).argmax(1) == labels).mean()
    stated = json.loads((task.weights / REPORT).read_text())["accuracy"]
    assert accuracy == pytest.approx(stated, abs=0.002)
    assert f"{stated:.1%}" in kind.meta.notes


@pytest.mark.parametrize("kind", TASKS)
def test_the_recipe_beside_the_weights_is_the_one_that_train_repeats(kind):
    task = kind(kind.Options())
    recipe, classifier = kind.recipes()
    assert type(recipe).model_validate_json((Path(task.model.model) / RECIPE_FILE).read_bytes()) == recipe
    report = json.loads((task.weights / REPORT).read_text())
    assert type(classifier).model_validate(report["recipe"]) == classifier


@pytest.mark.parametrize("query_set", ["reported", "tuning"])
def test_queries_are_balanced_unambiguous_and_the_same_every_time(cache, tmp_path, query_set):
    task = DigitsMini(DigitsMini.Options(queries_per_group=2, query_set=query_set))
    queries = task.open(Workspace(cache, torch.device("cpu"))).queries
    assert sorted(queries.groups) == sorted(str(digit) for digit in range(10) for _ in range(2))
    p = probabilities(load_classifier(task.weights), queries.images)
    assert (p.max(1) >= CONFIDENCE).all()
    assert [str(label) for label in p.argmax(1)] == queries.groups
    again = task.open(Workspace(tmp_path, torch.device("cpu"))).queries
    assert again.fingerprint == queries.fingerprint


def test_groups_of_icons_are_the_families(cache):
    data = DDPMIconsMini.data()
    groups = data.items(*data.held_out).groups
    assert set(groups) == set(FAMILIES) and groups[0] == FAMILIES[data.held_out[1][0]]


def test_tuning_queries_are_other_pictures(cache):
    sets = []
    for query_set in ("reported", "tuning"):
        task = DigitsMini(DigitsMini.Options(queries_per_group=2, query_set=query_set))
        sets.append(task.open(Workspace(cache, torch.device("cpu"))).queries)
    assert not {image.tobytes() for image in sets[0].images} & {image.tobytes() for image in sets[1].images}


@pytest.mark.parametrize("kind", TASKS)
def test_training_images_are_seen_by_the_model_in_its_range(kind, cache):
    opened = kind(kind.Options()).open(Workspace(cache, torch.device("cpu")))
    encoded = opened.denoiser.encode(opened.train.images[:4], [""] * 4, "model")
    assert encoded.latents.shape[1:] == opened.denoiser.latent_shape
    assert float(encoded.latents.min()) == pytest.approx(-1)
    assert np.isfinite(encoded.latents.numpy()).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gradient_rows_on_cuda_equal_those_on_cpu(tmp_path):
    from attrbench.contracts.computation import Engine
    from attrbench.contracts.gradient_source import GradientSource, Sketch
    from attrbench.features.gradient_rows import GradientRows
    from attrbench.gradients.gradient_pass import GradientPass, Split
    from attrbench.store.shards import FeatureStore, Unit

    rows = []
    for name in ("cpu", "cuda"):
        opened = DigitsMini(DigitsMini.Options()).open(Workspace(tmp_path, torch.device(name)))
        feature = GradientRows(source=GradientSource(), sketch=Sketch(length=256))
        store = FeatureStore(tmp_path / name, {"device": name})
        gradient_pass = GradientPass(feature.source, opened.denoiser, Split("train", opened.train), Engine())
        gradient_pass.compute(Unit(0, 8), {feature: store})
        rows.append(store.read(Unit(0, 8))["rows"])
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-2, atol=1e-4)


def test_no_shipped_file_names_a_folder_of_the_machine_that_made_it():
    configurations = [path for path in WEIGHTS.rglob("*.json") if "_name_or_path" in path.read_text(encoding="utf-8")]
    assert not configurations
