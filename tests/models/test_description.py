"""What is said of a model without its weights is exactly what the loaded model says."""

import shutil
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.errors import AttrbenchError, Unavailable, UsageError
from attrbench.models.config import ModelConfig
from attrbench.models.loading import describe_model, load_denoiser
from tests.models import pipelines

CPU = torch.device("cpu")
GRIDS = [TimestepGrid(kind=kind, steps=3) for kind in ("cubic", "uniform", "random", "sampler", "single")]
CHOICES = ("attributed", "all", "lora", "whole-lora", "transformer-blocks")
LATENT = ("sd1", "sd1-v", "sd3", "sd3-without-t5")
CASES = [(kind, options) for kind in LATENT for options in ({}, {"lora": True}, {"weights": "random"})]
CASES += [("sd1", o) for o in ({"resolution": 32}, {"attributed": "all"}, {"vae": "sample"}, {"dtype": "bfloat16"})]
CASES += [
    ("sd3", o) for o in ({"offload": True}, {"gradient_checkpointing": True}, {"weights": "random", "lora": True})
]
CASES += [("ddpm", o) for o in ({}, {"sampling_steps": 7}, {"gradient_checkpointing": True})]


@pytest.fixture
def config_of(source_of, tiny_folder):
    def make(kind, **options):
        if kind == "ddpm":
            return ModelConfig(model=str(tiny_folder), **{"sampling_steps": 4, **options})
        return source_of(kind, **options)

    return make


def answer(ask):
    """What is answered, or the error in its place."""
    try:
        return ask()
    except (UsageError, Unavailable) as error:
        return f"{type(error).__name__}: {error}"


def assert_described(description, denoiser):
    for name in ("fingerprint", "latent_shape", "image_shape", "takes_prompts", "has_latents", "training_steps"):
        assert getattr(description, name) == getattr(denoiser, name), name
    assert dict(description.sampling) == dict(denoiser.sampling)
    for grid in GRIDS:
        assert answer(lambda grid=grid: description.timesteps(grid)) == answer(
            lambda grid=grid: denoiser.timesteps(grid)
        )
    assert description.sampler_timesteps() == denoiser.sampler_timesteps()
    for which in CHOICES:
        shapes = answer(lambda which=which: list(description.parameters(which).items()))
        loaded = answer(lambda which=which: denoiser.attributed_parameters(which))
        assert shapes == (loaded if isinstance(loaded, str) else [(n, tuple(p.shape)) for n, p in loaded.items()]), (
            which
        )
    prompts = ["a cat", "a card with a cat of the sea and of the red flag"]
    assert description.truncated(prompts) == denoiser.truncated(prompts)
    assert description.checkpoints() == denoiser.checkpoints()
    for checkpoint in ("final", "untrained", "1/2", "nonesuch", *denoiser.checkpoints()):
        said = answer(lambda checkpoint=checkpoint: description.fingerprint_at(checkpoint))
        assert said == answer(lambda checkpoint=checkpoint: denoiser.at(checkpoint).fingerprint), checkpoint
        rate = answer(lambda checkpoint=checkpoint: description.learning_rate(checkpoint))
        assert rate == answer(lambda checkpoint=checkpoint: denoiser.learning_rate(checkpoint))


@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
def test_a_description_agrees_with_the_loaded_model(kind, options, config_of):
    config = config_of(kind, **options)
    assert_described(describe_model(config), load_denoiser(config, CPU))


def with_checkpoints(kind, config, folder):
    """The config of a copy with two checkpoints, of the network or of the LoRA."""
    shutil.copytree(config.lora or config.model, folder)
    config = config.model_copy(update={"model" if config.lora is None else "lora": str(folder)})
    earlier = folder / "checkpoints"
    earlier.mkdir()
    for seed, step in enumerate((100, 20)):
        if config.lora is not None:
            pipelines.write_lora(kind, earlier, seed=seed + 5, name=f"step-{step}.safetensors")
        else:
            state = load_denoiser(config, CPU).module.state_dict()
            save_file(
                {name: value + step / 1000 for name, value in state.items()}, earlier / f"step-{step}.safetensors"
            )
    (earlier / "learning-rates.json").write_text('{"step-20": 0.1, "final": 0.01}')
    return config


@pytest.mark.parametrize(
    ("kind", "lora"), [("ddpm", False), ("sd1", False), ("sd3", False), ("sd1", True), ("sd3", True)]
)
def test_a_description_knows_the_checkpoints_and_their_fingerprints(kind, lora, config_of, tmp_path):
    config = with_checkpoints(kind, config_of(kind, **({"lora": True} if lora else {})), tmp_path / "copy")
    description, denoiser = describe_model(config), load_denoiser(config, CPU)
    assert description.checkpoints() == ("step-20", "step-100")
    assert_described(description, denoiser)


@pytest.mark.parametrize("kind", ["ddpm", "sd1", "sd3"])
def test_no_weight_is_read_for_a_description(kind, config_of):
    config = config_of(kind)
    refusal = mock.Mock(side_effect=AssertionError("weights were read"))
    with (
        mock.patch("safetensors.torch.load_file", refusal),
        mock.patch("diffusers.models.modeling_utils.load_state_dict", refusal),
        mock.patch("diffusers.ModelMixin.from_pretrained", refusal),
        mock.patch("transformers.PreTrainedModel.from_pretrained", refusal),
    ):
        description = describe_model(config)
    assert {tensor.device.type for tensor in description.outline.module.parameters()} == {"meta"}
    assert description.parameters()


def test_the_weights_of_a_large_model_are_not_in_memory():
    """SD 3 Medium has 2,028,328,000 parameters: 8 GB, were they there."""
    config = ModelConfig(model="stabilityai/stable-diffusion-3-medium-diffusers", weights="random", resolution=512)
    description = describe_model(config)
    shapes = description.parameters("transformer-blocks")
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 2_008_851_456
    assert description.latent_shape == (16, 64, 64)


@pytest.mark.parametrize("kind", ["ddpm", "sd1"])
def test_a_folder_without_weights_is_refused_before_it_is_loaded(kind, config_of, tmp_path):
    folder = shutil.copytree(config_of(kind).model, tmp_path / "model")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(AttrbenchError, match=str(folder / "unet")):
        describe_model(config_of(kind).model_copy(update={"model": str(folder)}))


def test_a_description_follows_an_overwritten_file(config_of, tmp_path):
    folder = shutil.copytree(config_of("ddpm").model, tmp_path / "model")
    config = ModelConfig(model=str(folder))
    before = describe_model(config).fingerprint
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text() + "\n")
    after = describe_model(config).fingerprint
    assert before != after == load_denoiser(config, CPU).fingerprint
