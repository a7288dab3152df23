"""The paper's training recipe on tiny pipelines, a few steps."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from attrbench.contracts.task import Workspace
from attrbench.errors import AttrbenchError
from attrbench.models.pipeline_encoders import PipelineEncoders
from attrbench_tasks.dmin_paper import constants as paper
from attrbench_tasks.dmin_paper.text_to_image_tasks import SD3Full, SD3LoRA, SD14LoRA
from attrbench_tasks.dmin_paper.train_lora import PaperRecipe, PartsOfLoss, recipe_of
from attrbench_tasks.training import loop as fitting
from attrbench_tasks.training.training_state import has_state
from tests.models import pipelines
from tests.tasks.captioned import write_images

CPU = torch.device("cpu")
KINDS = {SD14LoRA: "sd1", SD3LoRA: "sd3", SD3Full: "sd3"}
LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """accelerate has one state a process, which a test must not find as another left it."""
    reset_accelerate()


def reset_accelerate():
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    for kind in ("sd1", "sd3"):
        pipelines.write(kind, folder / kind)
    write_images(folder / "images", ["flowers", "pokemon"] * 4)
    return folder


def task_of(kind, root, **more):
    small = {"train_epochs": 2, "train_batch": 4, "train_micro_batch": 4, "train_save_every": 2}
    return kind(kind.Options(model=str(root / KINDS[kind]), dataset=str(root / "images"), **{**small, **more}))


def trained(kind, root, out, **more):
    lines = []
    task_of(kind, root, **more).train(None, None, out, CPU, lines.append)
    file = LORA if kind.has_lora else "transformer/diffusion_pytorch_model.safetensors"
    return load_file(out / file), lines


def assert_equal(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_ends_with_the_same_weights(kind, root, tmp_path, monkeypatch):
    whole, _ = trained(kind, root, tmp_path / "whole")
    save, saved = fitting.TrainingState.save, []

    def dies(self, step):
        save(self, step)
        saved.append(step)
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting.TrainingState, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        trained(kind, root, tmp_path / "cut")
    monkeypatch.setattr(fitting.TrainingState, "save", save)
    assert saved == [2]
    names = sorted(path.name for path in (tmp_path / "cut").iterdir() if path.is_file())
    assert names == ["training-state-00000002.safetensors", "training-state-00000002.safetensors.seal.json"]
    resumed, lines = trained(kind, root, tmp_path / "cut")
    assert not any(line.startswith("step 2 ") for line in lines)
    assert_equal(resumed, whole)
    assert not has_state(tmp_path / "cut")


@pytest.mark.parametrize("kind", KINDS)
def test_how_a_batch_is_cut_does_not_change_the_training(kind, root, tmp_path):
    whole, _ = trained(kind, root, tmp_path / "whole", train_epochs=1)
    parts, _ = trained(kind, root, tmp_path / "parts", train_epochs=1, train_micro_batch=3)
    assert_equal(parts, whole, rtol=0, atol=2e-4)  # AdamW's first steps amplify rounding where gradients are near 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_is_what_the_task_takes(kind, root, tmp_path):
    trained(kind, root, tmp_path / "out", train_epochs=1)
    option = {"lora": str(tmp_path / "out")} if kind.has_lora else {"model": str(tmp_path / "out")}
    model = option.get("model", str(root / KINDS[kind]))
    task = kind(kind.Options(**{"model": model, "dataset": str(root / "images"), **option}))
    denoiser = task.open(Workspace(tmp_path / "cache", CPU)).denoiser
    images = np.zeros((1, *denoiser.image_shape), np.uint8)
    assert torch.isfinite(denoiser.encode(images, ["a"], "model").latents).all()
    assert any("lora" in name for name, _ in denoiser.module.named_parameters()) == kind.has_lora


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_the_weights_that_it_should_and_no_others(kind, root, tmp_path):
    weights, _ = trained(kind, root, tmp_path / "out", train_epochs=1)
    if kind.has_lora:
        assert {name.rsplit(".", 2)[-2] for name in weights} == {"lora_A", "lora_B"}
        assert all(value.abs().sum() > 0 for name, value in weights.items() if "lora_B" in name)  # B begins at zero
        ranks = {min(value.shape) for value in weights.values()}
        assert max(ranks) == 4
        return
    before = load_file(root / "sd3" / "transformer" / "diffusion_pytorch_model.safetensors")
    moved = {name for name, value in before.items() if not torch.equal(value, weights[name])}
    assert len(moved) > 0.9 * len(before) - 2


def test_the_parts_of_a_loss_are_the_loss_of_the_network(root, tmp_path):
    task = task_of(SD14LoRA, root, train_micro_batch=3, lora="unused")
    denoiser = _base(task, tmp_path)
    items = _items(task, tmp_path)
    recipe = recipe_of(task.training_base(), task.options, items)
    chosen, rng = recipe.batch(len(items), 0)
    state = rng.get_state()
    total = sum(
        float(part.detach()) for part in PartsOfLoss(recipe, denoiser, items, np.arange(len(items)))(chosen, rng)
    )
    rng.set_state(state)
    noise = torch.randn((len(chosen), *denoiser.latent_shape), generator=rng)
    t = torch.randint(0, 1000, (len(chosen),), generator=rng)
    rows = chosen.tolist()
    encoded = denoiser.encode(items.images[rows], [items.prompts[row] for row in rows], "model")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)[t].float()[:, None, None, None]
    noisy = kept.sqrt() * encoded.latents + (1 - kept).sqrt() * noise
    with torch.no_grad():
        predicted = denoiser.module(noisy, t, encoder_hidden_states=encoded.conditioning["text"]).sample
    assert total == pytest.approx(float((predicted - noise).square().mean()), rel=1e-5)


@pytest.mark.parametrize("kind", [SD3LoRA, SD3Full])
def test_the_loss_of_sd3_is_that_of_flow_matching_at_logit_normal_timesteps(kind, root, tmp_path):
    task = task_of(kind, root, train_micro_batch=3)
    denoiser, items = _base(task, tmp_path), _items(task, tmp_path)
    recipe = recipe_of(task.training_base(), task.options, items)
    chosen, rng = recipe.batch(len(items), 0)
    state = rng.get_state()
    total = sum(
        float(part.detach()) for part in PartsOfLoss(recipe, denoiser, items, np.arange(len(items)))(chosen, rng)
    )
    rng.set_state(state)
    noise = torch.randn((len(chosen), *denoiser.latent_shape), generator=rng)
    share = ((torch.randn(len(chosen), generator=rng).sigmoid() * 1000).long() + 1) / 1000
    sigma = (3 * share / (1 + 2 * share))[:, None, None, None]  # the schedule's shift of 3
    rows = chosen.tolist()
    encoded = denoiser.encode(items.images[rows], [items.prompts[row] for row in rows], "model")
    text = {"encoder_hidden_states": encoded.conditioning["text"], "pooled_projections": encoded.conditioning["pooled"]}
    noisy = (1 - sigma) * encoded.latents + sigma * noise
    with torch.no_grad():
        velocity = denoiser.module(noisy, timestep=1000 * sigma.flatten(), **text).sample
    assert total == pytest.approx(float((velocity - (noise - encoded.latents)).square().mean()), rel=1e-4)


def _base(task, cache):
    from attrbench.models.loading import load_denoiser

    return load_denoiser(task.model.model_copy(update={"lora": None, "attributed": "all"}), CPU)


def _items(task, cache):
    from attrbench.data.open_dataset import load_items

    return load_items(task.train_source, 16, cache)


def test_the_recipe_is_that_of_the_papers_table(root, tmp_path):
    for kind, rate in ((SD14LoRA, 1e-3), (SD3LoRA, 1e-3), (SD3Full, 1e-4)):
        task = kind(kind.Options(model=str(root / KINDS[kind]), dataset=str(root / "images")))
        items = _items(task, tmp_path)
        recipe = recipe_of(task.training_base(), task.options, items)
        assert {recipe.learning_rate_at(step) for step in (0, 10, recipe.steps - 1)} == {rate}
        assert (recipe.batch_size, recipe.micro_batch, recipe.precision) == (64, 8, "no")
        assert recipe.steps == 150 * max(1, len(items) // 64)
        if kind.has_lora:
            assert (recipe.lora.rank, recipe.lora.alpha) == (4, 8)
            assert recipe.lora.target_modules == ("to_k", "to_q", "to_v", "to_out.0")
    assert paper.RESOLUTION == 512


def test_finished_trainings_are_not_repeated_and_not_written_over(root, tmp_path):
    first, _ = trained(SD3LoRA, root, tmp_path, train_epochs=1)
    again, lines = trained(SD3LoRA, root, tmp_path, train_epochs=1)
    assert any("already" in line for line in lines)
    assert_equal(again, first)
    with pytest.raises(AttrbenchError, match="another recipe"):
        trained(SD3LoRA, root, tmp_path, train_epochs=2)
    recipe = PaperRecipe.model_validate(json.loads((tmp_path / "recipe.json").read_bytes()))
    assert recipe.model == str(root / "sd3")


def test_bfloat16_autocast_trains_too(root, tmp_path):
    weights, _ = trained(SD3LoRA, root, tmp_path, train_epochs=1, train_precision="bf16")
    assert all(torch.isfinite(value).all() and value.dtype == torch.float32 for value in weights.values())


def test_a_missing_base_is_one_line_with_the_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AttrbenchError, match="hf auth login"):
        SD3Full(SD3Full.Options()).train(None, None, tmp_path, CPU, print)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_cuda_begins_as_on_the_cpu(root, tmp_path):
    losses = []
    for name in ("cpu", "cuda"):
        lines = []
        reset_accelerate()
        task = task_of(SD3LoRA, root, train_epochs=0.5, train_save_every=1)
        task.train(None, None, tmp_path / name, torch.device(name), lines.append)
        losses.append(float(lines[1].rpartition(" ")[2]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_offloaded_encoders_come_once_a_training_and_change_nothing(root, tmp_path, monkeypatch):
    expected, _ = trained(SD3LoRA, root, tmp_path / "here")
    reset_accelerate()
    places, original = [], PipelineEncoders._at_work

    def spy(encoders, *modules):
        places.append(len(modules))
        return original(encoders, *modules)

    monkeypatch.setattr(PipelineEncoders, "_at_work", spy)
    found, _ = trained(SD3LoRA, root, tmp_path / "offloaded", offload=True)
    assert sorted(places) == [1, 3]  # the autoencoder, and the text encoders
    assert_equal(found, expected)
