"""The paper's text-to-image tasks on tiny pipelines, and at true size without weights."""

import json
import time

import numpy as np
import pytest
import torch

from attrbench.contracts.model_family import Architecture
from attrbench.contracts.record import read_records
from attrbench.contracts.task import Workspace
from attrbench.errors import AttrbenchError
from attrbench.models.families.stable_diffusion import SD14, StableDiffusion
from attrbench.models.families.stable_diffusion3 import SD3_MEDIUM, StableDiffusion3
from attrbench.reports.ranking import build_tables
from attrbench_tasks.dmin_paper import constants as paper
from attrbench_tasks.dmin_paper.open_tasks import scale_images
from attrbench_tasks.dmin_paper.text_to_image_tasks import SD3Full, SD3LoRA, SD14LoRA, choose_draws
from tests.cli.conftest import attrbench  # noqa: F401
from tests.models import pipelines
from tests.tasks.captioned import write_images

CPU = torch.device("cpu")
KINDS = {SD14LoRA: "sd1", SD3LoRA: "sd3", SD3Full: "sd3"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pipelines, LoRAs, a folder of images without splits and one with them."""
    folder = tmp_path_factory.mktemp("paper")
    pipelines.write_with_loras(folder)
    write_images(folder / "images", ["flowers", "pokemon", "flowers", "pokemon"])
    write_images(folder / "mixture" / "train", ["flowers", "pokemon", "magic-cards", "flowers"])
    write_images(folder / "mixture" / "test", ["flowers", "pokemon", "flowers", "magic-cards"], seed=1, word="flag")
    return folder


def options_of(kind, root, dataset="mixture", **more):
    found = {"model": str(root / KINDS[kind]), "dataset": str(root / dataset), "sampling_steps": 2, **more}
    if kind.has_lora and "weights" not in more:
        found.setdefault("lora", str(root / f"{KINDS[kind]}-lora"))
    return kind.Options(**found)


def opened(kind, root, cache, **more):
    return kind(options_of(kind, root, **more)).open(Workspace(cache, CPU))


@pytest.mark.parametrize("offline", ["0", "1"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sd3-full", ["not published", paper.SD3, "hf auth login", "attrbench train sd3-full", "model=FOLDER"]),
        ("sd14-lora", ["not published", "attrbench train sd14-lora", "lora=FOLDER"]),
        ("sd3-lora", [paper.SD3, "model=PATH", "license", "hf auth login"]),
        ("ddpm-mnist", [paper.DDPM_MNIST, "model=PATH"]),
        ("ddpm-cifar10", [paper.DDPM_CIFAR10, "model=PATH"]),
    ],
)
def test_what_is_missing_is_said_in_one_line_with_the_steps(name, words, offline, attrbench, monkeypatch, tmp_path):  # noqa: F811
    from attrbench import hub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline == "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HUB_SECONDS", 0.1)
    started = time.perf_counter()
    done = attrbench("run", "--method", "dmin", "--task", name, "--out", tmp_path)
    assert done.code == 1
    (line,) = done.complaint
    assert all(word in line for word in words), line
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("kind", KINDS)
def test_every_id_can_be_replaced_by_a_path(kind, root, tmp_path):
    task = opened(kind, root, tmp_path)
    size = 16
    assert task.train.images.shape == (4, size, size, 3)
    assert list(task.train.groups) == ["flowers", "pokemon", "magic-cards", "flowers"]
    assert task.queries.images.shape == (3, size, size, 3)
    names = task.denoiser.attributed_parameters("attributed")
    assert names
    assert all(("lora" in name) == kind.has_lora for name in names)


def test_queries_are_the_held_out_prompts_of_the_three_groups_with_fixed_seeds(root, tmp_path):
    queries = opened(SD3Full, root, tmp_path).queries
    assert list(zip(queries.groups, queries.prompts, queries.seeds, strict=True)) == [
        ("flowers", "flag a", 0),
        ("flowers", "flag c", 1),
        ("magic-cards", "flag d", 2),
    ]
    tuning = opened(SD3Full, root, tmp_path, query_set="tuning").queries
    assert not set(tuning.seeds) & set(queries.seeds)


def test_a_prompt_that_is_a_training_caption_is_not_held_out(root, tmp_path):
    write_images(tmp_path / "mix" / "train", ["flowers", "flowers"], word="flag")
    write_images(tmp_path / "mix" / "test", ["flowers", "flowers", "flowers"], word="flag")
    task = opened(SD3Full, tmp_path, tmp_path, dataset="mix", model=str(root / "sd3"))
    assert list(task.queries.prompts) == ["flag c"]
    assert not task.notes


def test_without_a_test_split_training_captions_stand_in_and_a_note_says_so(root, tmp_path):
    task = opened(SD3Full, root, tmp_path, dataset="images")
    assert set(task.queries.prompts) <= set(task.train.prompts)
    assert any("not for held-out prompts" in note for note in task.notes)


def test_a_home_folder_is_split_as_any_other(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    options = options_of(SD3Full, root).model_copy(update={"dataset": "~/mixture"})
    task = SD3Full(options).open(Workspace(tmp_path, CPU))
    assert len(task.train) == 4 and list(task.queries.prompts) == ["flag a", "flag c", "flag d"]
    assert SD3Full(options).state() == SD3Full(options_of(SD3Full, root)).state()


def test_a_test_split_that_is_there_and_broken_is_no_missing_one(root, tmp_path):
    write_images(tmp_path / "mix" / "train", ["flowers", "flowers"])
    write_images(tmp_path / "mix" / "test", ["flowers", "flowers"], word="flag")
    (tmp_path / "mix" / "test" / "1.png").unlink()
    with pytest.raises(AttrbenchError, match=r"1\.png"):
        opened(SD3Full, tmp_path, tmp_path, dataset="mix", model=str(root / "sd3"))


def test_prompts_can_come_from_a_file(root, tmp_path):
    file = tmp_path / "prompts.csv"
    file.write_text("prompt,group\na cat,flowers\na flag,pokemon\n")
    task = opened(SD3Full, root, tmp_path, dataset="images", prompts=str(file))
    assert list(task.queries.prompts) == ["a cat"]
    assert not task.notes


def test_the_prompts_that_a_limit_leaves_do_not_depend_on_their_order():
    pairs = [(f"prompt {number}", "flowers") for number in range(30)]
    forwards, backwards = (choose_draws(order, 5, 0) for order in (pairs, pairs[::-1]))
    assert forwards == backwards
    assert len({draw.prompt for draw in forwards}) == 5


def test_other_groups_are_drawn_only_where_none_of_the_three_is_there():
    draws = choose_draws([("a", "pokemon"), ("b", "diffusiondb"), ("b", "diffusiondb")], None, 0)
    assert [(draw.prompt, draw.group) for draw in draws] == [("b", "diffusiondb"), ("a", "pokemon")]


def test_the_released_adapter_and_set_are_the_defaults_of_sd3_lora():
    task = SD3LoRA(SD3LoRA.Options())
    assert (task.model.model, task.model.lora) == (paper.SD3, paper.SD3_LORA)
    assert task.train_source.path == paper.RELEASED_SET
    assert task.model.resolution == 512


def test_constants_are_those_of_the_paper():
    assert (paper.LEARNING_RATES, paper.BATCH, paper.EPOCHS) == ({"lora": 1e-3, "full": 1e-4}, 64, 150)
    assert set(paper.QUERIED) <= set(paper.SOURCES)
    assert round(1 - paper.HELD_OUT_SHARE, 9) == 0.8


def test_scale_images_are_functions_of_their_index_and_take_the_memory_of_one():
    images = scale_images(9_288, (64, 64, 3))
    assert images.shape == (9_288, 64, 64, 3)
    np.testing.assert_array_equal(images[17], scale_images(18, (64, 64, 3))[17])
    assert len({images[index].tobytes() for index in range(50)}) == 50
    assert not images.flags.writeable


@pytest.fixture
def tiny_architectures(monkeypatch):
    """The built-in architectures with fewer and thinner layers."""
    sd3 = dict(SD3_MEDIUM.network) | {
        "sample_size": 8,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 64,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 32,
    }
    sd14 = dict(SD14.network) | {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 32}
    monkeypatch.setattr(StableDiffusion3, "architectures", {paper.SD3: Architecture(sd3, SD3_MEDIUM.scheduler)})
    monkeypatch.setattr(StableDiffusion, "architectures", {paper.SD14: Architecture(sd14, SD14.scheduler)})


@pytest.mark.parametrize("name", ["sd3-full", "sd3-lora", "sd14-lora"])
def test_scale_runs_need_nothing_and_are_marked_and_never_ranked(name, tiny_architectures, attrbench, tmp_path):  # noqa: F811
    task = f"{name}:weights=random,resolution=64,scale_items=5"
    limits = ("--limit-train", "4", "--limit-queries", "1", "--device", "cpu")
    done = attrbench("run", "-m", "dmin:v=64,timesteps=2", "-m", "pixel", "-t", task, *limits, "--out", tmp_path)
    assert done.code == 0, done.err
    assert "scale run" in done.out
    assert "512 B an item" in done.out
    records, problems = read_records(tmp_path)
    assert not problems
    assert len(records) == 2
    (dmin,) = (record for record in records if record.method.name == "dmin")
    assert dmin.task.scale
    assert dmin.storage.rows == 4 * 64 * 4 * 2  # items x v x bytes x T
    assert dmin.peak_memory_bytes > 0
    complete = [record.model_copy(update={"status": "complete"}) for record in records]
    for table in build_tables(records) + build_tables(complete):
        assert not table.ranked
        assert all("scale run" in row.reason for row in table.below)


def test_scale_runs_checkpoint_their_activations_and_draw_no_pictures(tiny_architectures, monkeypatch, tmp_path):
    def sampled(*_):
        raise AssertionError("the sampler ran")

    task = SD3Full(SD3Full.Options(weights="random", resolution=64, scale_items=3))
    assert task.model.gradient_checkpointing
    assert not SD3Full(SD3Full.Options(weights="random", gradient_checkpointing=False)).model.gradient_checkpointing
    monkeypatch.setattr("attrbench.models.latent_model.LatentDenoiser._sample", sampled)
    assert len(task.open(Workspace(tmp_path, CPU)).queries) > 1


def test_an_unscaled_record_says_so(root, tmp_path, attrbench):  # noqa: F811
    spec = f"sd3-full:model={root / 'sd3'},dataset={root / 'mixture'},sampling_steps=2"
    assert attrbench("run", "-m", "pixel", "-t", spec, "--out", tmp_path, "--device", "cpu").code == 0
    (record,), _ = read_records(tmp_path)
    assert not record.task.scale
    assert record.status == "complete"
    assert record.metric("detection-rate@5") is not None or record.coverage.train_items < 5
    assert "scale" in json.loads(record.model_dump_json())["task"]


def test_a_pipeline_of_another_family_is_refused(root, tiny_folder, tmp_path):
    with pytest.raises(AttrbenchError, match="DDPMPipeline"):
        opened(SD3Full, root, tmp_path, model=str(tiny_folder))
