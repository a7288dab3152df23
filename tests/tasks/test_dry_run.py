"""`--dry-run` plans every task from configurations and file names: no network is opened and no picture drawn."""

import numpy as np
import pytest

from attrbench.contracts.denoiser import Denoiser
from attrbench.data.generated_images import Generations
from attrbench.models.families import ddpm
from attrbench.plugins.registry import registry
from attrbench_tasks.dmin_paper import ddpm_tasks
from attrbench_tasks.minis import query_pictures
from attrbench_tasks.removal import removal_task
from attrbench_tasks.shipped_weights import WEIGHTS
from tests.cli.conftest import attrbench  # noqa: F401
from tests.models import pipelines
from tests.tasks.captioned import write_images

MNIST = WEIGHTS.parent / "data" / "mnist5k.npz"
PLANS = {
    "digits-mini": "",
    "ddpm-mnist-mini": "",
    "ddpm-icons-mini": "",
    "mnist14-mini": "",
    "sd14-lora-mini": "",
    "sd3-lora-mini": "",
    "sd3-full-mini": "",
    "planted-lora-mini": "",
    "customized-mini": "",
    "mnist-removal-mini": "",
    "mnist-removal": f"model={WEIGHTS / 'mnist-removal-mini'},dataset={{root}}/mnist.npz",
    "ddpm-mnist": f"model={WEIGHTS / 'ddpm-mnist-mini'},dataset={MNIST}",
    "ddpm-cifar10": f"model={WEIGHTS / 'ddpm-icons-mini'},dataset={{root}}/classes",
    "sd14-lora": "model={root}/sd1,lora={root}/sd1-lora,dataset={root}/images",
    "sd3-lora": "model={root}/sd3,lora={root}/sd3-lora,dataset={root}/images",
    "sd3-full": "model={root}/sd3,dataset={root}/images",
}
"""Options that let each task open without a download, by its name."""
SCALE = ("sd14-lora:weights=random", "sd3-lora:weights=random", "sd3-full:weights=random")
FILE = """
[task]
name = "mine"
version = 1
summary = "a task file whose queries are drawn and given"
[model]
model = "{root}/sd1"
sampling_steps = 2
[train]
path = "{root}/images"
[queries]
prompts = ["a flag", "a card", "a flower"]
seeds = [1, 2]
[queries.images]
path = "{root}/given"
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Tiny pipelines, LoRAs and images for the tasks whose own are far away."""
    folder = tmp_path_factory.mktemp("dry-run")
    pipelines.write_with_loras(folder)
    write_images(folder / "images", ["flowers", "pokemon", "flowers", "pokemon"])
    write_images(folder / "given", ["flowers"], seed=1)
    for name in ("cat", "dog"):
        write_images(folder / "classes" / name, [None, None])
        (folder / "classes" / name / "metadata.csv").unlink()
    images = np.zeros((60_000, 28, 28), np.uint8)
    images[:, 4:24, 12:16] = 255
    np.savez(folder / "mnist.npz", x_train=images, y_train=np.arange(60_000) % 10)
    (folder / "mine.toml").write_text(FILE.format(root=folder))
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """Opening a network, drawing a picture and training or reading a classifier raise an error."""

    def refused(*_, **__):
        raise AssertionError("a dry run opens no network and draws nothing")

    def meta_only(load):
        def guarded(*arguments, **options):
            devices = [each for each in (*arguments, *options.values()) if type(each).__name__ == "device"]
            assert [device.type for device in devices] == ["meta"], "a dry run opens no network"
            return load(*arguments, **options)

        return guarded

    for name in registry().names("model_family"):
        family = type(registry().model_family(name))
        monkeypatch.setattr(family, "load", meta_only(family.load))
        monkeypatch.setattr(family, "load_random", meta_only(family.load_random))
    monkeypatch.setattr(ddpm, "_unet", meta_only(ddpm._unet))
    for kind in _kinds(Denoiser):
        monkeypatch.setattr(kind, "generate", refused)
    monkeypatch.setattr("diffusers.ModelMixin.from_pretrained", refused)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", refused)
    monkeypatch.setattr(Generations, "images", refused)
    monkeypatch.setattr(query_pictures, "load_classifier", refused)
    monkeypatch.setattr(ddpm_tasks, "train_classifier", refused)
    monkeypatch.setattr(removal_task, "thicknesses", lambda images, formula: np.arange(len(images)) % 7.0)  # a minute


def _kinds(base):
    yield base
    for kind in base.__subclasses__():
        yield from _kinds(kind)


def test_every_task_is_planned_here():
    registered = {
        name for name in registry().names("task") if registry().provider("task", name).distribution == "attrbench"
    }
    assert set(PLANS) == registered


@pytest.mark.parametrize("task", [*(f"{name}:{options}".rstrip(":") for name, options in PLANS.items()), *SCALE])
def test_a_dry_run_opens_no_network_and_draws_nothing(task, root, attrbench, no_network, tmp_path):  # noqa: F811
    done = attrbench(
        "run", "-m", "all", "-t", task.format(root=root), "--dry-run", "--cache", tmp_path, "--out", tmp_path / "out"
    )
    assert done.code == 0, done.err
    ships_queries = task.endswith("-mini")
    assert ("queries, to be drawn first" in done.err) != ships_queries
    has_lora = task.startswith("customized") or ("lora" in task.partition(":")[0] and "weights=random" not in task)
    assert ("LoRA pytorch_lora_weights.safetensors: " in done.err) == has_lora
    assert "MB to write" in done.err
    assert not (tmp_path / "queries").exists() or not list((tmp_path / "queries").glob("*generat*"))


def test_a_dry_run_of_a_task_file_draws_nothing(root, attrbench, no_network, tmp_path):  # noqa: F811
    done = attrbench(
        "run", "-m", "dmin:v=64", "-t", root / "mine.toml", "--dry-run", "--cache", tmp_path, "--out", tmp_path / "out"
    )
    assert done.code == 0, done.err
    assert "4 training items, 7 queries, to be drawn first" in done.err


def test_a_dry_run_after_a_run_finds_its_queries_and_shards(attrbench, request, tmp_path):  # noqa: F811
    run = ("run", "-m", "dmin:v=64", "-t", "digits-mini:queries_per_group=1", "--limit-train", "20")
    run = (*run, "--cache", tmp_path, "--out", tmp_path / "out")
    assert attrbench(*run).code == 0
    request.getfixturevalue("no_network")
    done = attrbench(*run, "--dry-run", "--rerun")
    assert done.code == 0, done.err
    assert "20 training items, 10 queries\n" in done.err
    assert ": 0 of " in done.err
    assert "0 MB to write" in done.err
