"""True architectures with random weights, for measuring."""

import numpy as np
import pytest
import torch

from attrbench.contracts.feature import Engine
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import UsageError
from attrbench.gradients.gradient_pass import GradientPass, Split
from attrbench.models import latent_family
from attrbench.models.config import ModelConfig
from attrbench.models.families.stable_diffusion import SD14, StableDiffusion
from attrbench.models.families.stable_diffusion3 import SD3_MEDIUM, StableDiffusion3
from attrbench.models.loading import load_denoiser
from attrbench.models.random_weights import RandomEncoders
from attrbench.store.shards import Unit

CPU = torch.device("cpu")
SD1, SD3 = (next(iter(family.architectures)) for family in (StableDiffusion, StableDiffusion3))


def parameters_of(family, architecture):
    import diffusers

    kind = getattr(diffusers, family.network_class)
    with torch.device("meta"):
        return dict(kind.from_config(dict(architecture.network)).named_parameters())


def test_architectures_are_the_real_ones():
    unet, transformer = parameters_of(StableDiffusion, SD14), parameters_of(StableDiffusion3, SD3_MEDIUM)
    assert sum(p.numel() for p in unet.values()) == 859_520_964
    assert sum(p.numel() for p in transformer.values()) == 2_028_328_000
    blocks = sum(p.numel() for name, p in transformer.items() if "transformer_blocks" in name)
    assert blocks == 2_008_851_456


@pytest.fixture
def random_of(folders):
    """A tiny pipeline folder's architecture with random weights."""
    return lambda kind, **options: load_denoiser(
        ModelConfig(model=str(folders(kind)), weights="random", **options), CPU
    )


@pytest.mark.parametrize("lora", [None, "any"])
@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_gradients_go_through_and_every_tensor_has_one(kind, lora, random_of, pictures):
    denoiser = random_of(kind, lora=lora, gradient_checkpointing=True)
    source = GradientSource(grid=TimestepGrid(steps=2, kind="uniform"))
    rows = GradientPass(source, denoiser, Split("train", pictures), Engine()).whole(Unit(0, 2))
    assert rows.isfinite().all()
    assert rows[0, 0].norm() > 0
    assert not torch.equal(rows[:, 0], rows[:, 1])
    if lora:
        assert {name.split(".")[-3] for name in denoiser.attributed_parameters("attributed")} == {"lora_A", "lora_B"}
        shapes = {len(p) for name, p in denoiser.attributed_parameters("lora").items() if "lora_A" in name}
        assert shapes == {4}
        assert denoiser.module.peft_config["default"].lora_alpha == 8


@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_everything_is_the_same_every_time(kind, random_of, pictures):
    torch.manual_seed(0)
    one = random_of(kind, lora="x")
    torch.manual_seed(1)
    other = random_of(kind, lora="x")
    state = one.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in other.module.state_dict().items())
    assert one.fingerprint == other.fingerprint != random_of(kind).fingerprint
    encoded = one.encode(pictures.images, pictures.prompts, "model")
    again = other.encode(pictures.images[1:2], pictures.prompts[1:2], "model")
    assert torch.equal(encoded.latents[1:2], again.latents)
    for name, value in again.conditioning.items():
        assert torch.equal(encoded.conditioning[name][1:2], value)
        assert torch.equal(encoded.conditioning[name][0], encoded.conditioning[name][-1])  # the same prompt
        assert not torch.equal(encoded.conditioning[name][0], encoded.conditioning[name][1])
    assert np.array_equal(one.generate(["a"], [1]), other.generate(["a"], [1]))


def test_conditioning_has_the_real_shapes():
    for family, architecture, shapes in (
        (StableDiffusion(), SD14, {"text": (77, 768)}),
        (StableDiffusion3(), SD3_MEDIUM, {"text": (333, 4096), "pooled": (2048,)}),
    ):
        channels = architecture.network["in_channels"]
        encoders = RandomEncoders(64, 8, channels, family.conditioning_shapes(architecture.network))
        assert {name: tuple(v.shape[1:]) for name, v in encoders.conditioning(["a"]).items()} == shapes
        assert encoders.latents(np.zeros((1, 64, 64, 3), np.uint8), "model").shape == (1, channels, 8, 8)


def test_a_model_without_a_known_architecture_is_named():
    with pytest.raises(UsageError, match=SD3):
        load_denoiser(ModelConfig(model="someone/else", weights="random"), CPU)


def test_the_weights_are_in_memory_once(random_of, monkeypatch):
    seen = []
    original = latent_family.draw_weights
    monkeypatch.setattr(latent_family, "draw_weights", lambda module: (seen.append(module), original(module)))
    denoiser = random_of("sd3", dtype="bfloat16")
    assert denoiser.module is seen[0]  # what was drawn is what is used
    assert {p.dtype for p in denoiser.module.parameters()} == {torch.bfloat16}
