"""Every task with a recipe trains on a subset, with a seed: the same bytes each time, also after an interruption."""

import numpy as np
import pytest
import torch

from attrbench.contracts.task import Trainable, Workspace
from attrbench.errors import AttrbenchError, UsageError
from attrbench.store.checksums import SEAL
from attrbench_tasks.dmin_paper.text_to_image_tasks import SD3Full, SD14LoRA
from attrbench_tasks.minis import text_to_image
from attrbench_tasks.minis.ddpm_icons import DDPMIconsMini
from attrbench_tasks.minis.ddpm_mnist import DDPMMnistMini
from attrbench_tasks.minis.digits import DigitsMini
from attrbench_tasks.minis.recipes import AUTOENCODER, BASES, CLASSIFIER, TEXT_ENCODERS
from attrbench_tasks.minis.text_to_image import SHARED, SD3FullMini, SD3LoRAMini, SD14LoRAMini
from attrbench_tasks.training import loop
from attrbench_tasks.training.loop import RECIPE_FILE
from attrbench_tasks.training.training_request import REQUEST_FILE, TrainingRequest
from attrbench_tasks.training.training_state import STATE, has_state
from tests.models import pipelines
from tests.tasks.captioned import write_images
from tests.tasks.test_paper_training import reset_accelerate

CPU = torch.device("cpu")
MINI_DDPM = [DigitsMini, DDPMMnistMini, DDPMIconsMini]
MINI_TEXT_TO_IMAGE = [SD14LoRAMini, SD3LoRAMini, SD3FullMini]
PAPER = {SD14LoRA: "sd1", SD3Full: "sd3"}
KINDS = [*MINI_DDPM, *MINI_TEXT_TO_IMAGE, *PAPER]
SUBSET = np.array([0, 2, 3, 5, 6, 7])
STEPS = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Tiny pipelines and images for the paper's tasks."""
    folder = tmp_path_factory.mktemp("trainable")
    for kind in PAPER.values():
        pipelines.write(kind, folder / kind)
    write_images(folder / "images", ["flowers", "pokemon"] * 5)
    return folder


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    """Each recipe with four steps of small batches, and a state on disk after each."""
    small = {"steps": STEPS, "batch_size": 4, "warmup": 2}
    for kind in MINI_DDPM:
        recipe, classifier = kind.recipes()
        tiny = recipe.model_copy(update={**small, "checkpoints": (2,)}), classifier.model_copy(update={"epochs": 1})
        monkeypatch.setattr(kind, "recipes", staticmethod(lambda tiny=tiny: tiny))
    for kind in MINI_TEXT_TO_IMAGE:
        tiny = kind.recipe().model_copy(update=small)
        monkeypatch.setattr(kind, "recipe", classmethod(lambda cls, tiny=tiny: tiny))
    monkeypatch.setattr(text_to_image, "encoded", shipped_encodings(text_to_image.encoded))
    monkeypatch.setattr(loop.Progress, "is_due", lambda self, step: True)
    reset_accelerate()


KEPT_ENCODINGS = {}


def shipped_encodings(encode):
    """Have the training set be encoded once, for all trainings on the shipped base of a family."""

    def once(family, folder, name, device):
        if folder != text_to_image.WEIGHTS / SHARED:
            return encode(family, folder, name, device)
        if family not in KEPT_ENCODINGS:
            KEPT_ENCODINGS[family] = encode(family, folder, name, device)
        return KEPT_ENCODINGS[family]

    return once


def task_of(kind, root):
    if kind not in PAPER:
        return kind(kind.Options())
    return kind(
        kind.Options(
            model=str(root / PAPER[kind]),
            dataset=str(root / "images"),
            train_epochs=2,
            train_batch=4,
            train_micro_batch=3,
        )
    )


def train(task, subset, seed, out):
    reset_accelerate()
    assert task.train(subset, seed, out, CPU, lambda line: None) == out
    return contents(out)


def contents(folder):
    """The bytes of all files below a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(files):
    return {name: data for name, data in files.items() if name.endswith(".safetensors")}


def stop_at(monkeypatch, last):
    """Have training die after step `last`, whose state is on disk."""
    save = loop.TrainingState.save

    def dies(self, step):
        save(self, step)
        if step == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.TrainingState, "save", dies)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_is_a_function_of_subset_and_seed(kind, root, tmp_path):
    task = task_of(kind, root)
    first = train(task, SUBSET, 3, tmp_path / "a")
    assert train(task, SUBSET, 3, tmp_path / "b") == first
    assert weights(train(task, SUBSET, 4, tmp_path / "seed")) != weights(first)
    assert weights(train(task, SUBSET[1:], 3, tmp_path / "subset")) != weights(first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_was_cut_off_ends_as_one_that_was_not(kind, root, tmp_path, monkeypatch):
    task = task_of(kind, root)
    whole = train(task, SUBSET, 3, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(task, SUBSET, 3, tmp_path / "cut")
    assert has_state(tmp_path / "cut")
    assert train(task, SUBSET, 3, tmp_path / "cut") == whole


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_that_was_trained_is_a_denoiser_with_other_weights_than_another(kind, root, tmp_path):
    task = task_of(kind, root)
    workspace = Workspace(tmp_path / "cache", CPU)
    fingerprints = set()
    for seed in (3, 4):
        train(task, SUBSET, seed, tmp_path / str(seed))
        denoiser = task.trained(tmp_path / str(seed), workspace)
        images = np.zeros((1, *denoiser.image_shape), np.uint8)
        assert torch.isfinite(denoiser.encode(images, ["a flag"], "model").latents).all()
        assert not denoiser.checkpoints()
        fingerprints.add(denoiser.fingerprint)
    assert len(fingerprints) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_training_is_not_repeated_and_not_written_over(kind, root, tmp_path, monkeypatch):
    task = task_of(kind, root)
    files = train(task, SUBSET, 3, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_average", None)
        assert weights(train(task, SUBSET, 3, tmp_path)) == weights(files)
    for subset, seed in ((SUBSET, 4), (SUBSET[1:], 3), (None, 3), (SUBSET, None), (None, None)):
        with pytest.raises(AttrbenchError, match="another subset or seed"):
            train(task, subset, seed, tmp_path)
    assert weights(contents(tmp_path)) == weights(files)


def test_what_a_kill_left_of_a_finished_trainings_state_is_gone_after_the_next_call(tmp_path):
    task = DigitsMini(DigitsMini.Options())
    train(task, SUBSET, 3, tmp_path)
    files = {path.name for path in tmp_path.rglob("*")}
    (tmp_path / f"{STATE}-00000004.safetensors{SEAL}").write_text("{}")
    train(task, SUBSET, 3, tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == files


def test_a_state_of_another_subset_is_refused(tmp_path, monkeypatch):
    task = DigitsMini(DigitsMini.Options())
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(task, SUBSET, 3, tmp_path)
    with pytest.raises(AttrbenchError, match="another subset or seed"):
        train(task, SUBSET[1:], 3, tmp_path)


def test_a_training_without_subset_and_seed_is_the_original_one_with_classifier_and_checkpoints(tmp_path):
    files = train(DigitsMini(DigitsMini.Options()), None, None, tmp_path)
    assert {"classifier.safetensors", "checkpoints/step-2.safetensors", RECIPE_FILE} <= files.keys()
    assert REQUEST_FILE not in files


def test_all_items_as_a_subset_with_the_recipes_seed_give_the_original_weights(tmp_path):
    task = DigitsMini(DigitsMini.Options())
    name = "unet/diffusion_pytorch_model.safetensors"
    original = train(task, None, None, tmp_path / "original")
    every = train(task, np.arange(task.meta.train_items), DigitsMini.recipes()[0].seed, tmp_path / "every")
    assert every[name] == original[name]


def test_an_original_fine_tuning_trains_the_shared_parts_beside_it(tmp_path, monkeypatch):
    from attrbench_tasks.minis import recipes

    few = {"steps": 1, "stop": None, "batch_size": 2}
    monkeypatch.setattr(recipes, "AUTOENCODER", AUTOENCODER.model_copy(update=few))
    monkeypatch.setattr(recipes, "TEXT_ENCODERS", TEXT_ENCODERS.model_copy(update=few))
    monkeypatch.setitem(recipes.BASES, "sd14", BASES["sd14"].model_copy(update=few))
    monkeypatch.setattr(recipes, "CLASSIFIER", CLASSIFIER.model_copy(update={"epochs": 1}))
    monkeypatch.setattr(SD14LoRAMini, "judge", lambda self, weights, device: "judged")
    task = SD14LoRAMini(SD14LoRAMini.Options())
    train(task, None, None, tmp_path / "lora")
    assert (tmp_path / SHARED / "sd14" / RECIPE_FILE).is_file()
    beside = task.trained(tmp_path / "lora", Workspace(tmp_path / "cache", CPU))
    train(task, SUBSET, 3, tmp_path / "subset")
    shipped = task.trained(tmp_path / "subset", Workspace(tmp_path / "cache", CPU))
    name = next(name for name, _ in shipped.module.named_parameters() if "lora" not in name)
    assert not torch.equal(beside.module.get_parameter(name), shipped.module.get_parameter(name))


@pytest.mark.parametrize("subset", [[], [3, 2], [2, 2], [-1, 2], [0, 10], [[0, 1]], [0.5, 1.5]])
def test_a_subset_that_is_none_is_refused_in_one_line(subset):
    with pytest.raises(UsageError, match="a subset to train on"):
        TrainingRequest(10, np.array(subset), None)


def test_published_models_without_a_recipe_are_not_trainable():
    from attrbench_tasks.dmin_paper.ddpm_tasks import DDPMMnist

    assert not issubclass(DDPMMnist, Trainable)
