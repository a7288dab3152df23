"""The choice of the whole LoRA, in transformer blocks and beside them, and what is said where a part is taken."""

import pytest
import torch

from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import UsageError
from attrbench.models.families.stable_diffusion import StableDiffusionDenoiser
from attrbench.models.loading import describe_model, load_denoiser
from attrbench.models.noise import gaussian
from attrbench.store.shards import Unit
from tests.models.diffusers_calls import CPU, pipeline_of, relative_error, whole
from tests.models.lora_files import NETWORK, TEXT, adapted, spelled, state_of
from tests.models.test_stable_diffusion_gradients import direct_gradient

KINDS = ("sd1", "sd3")


@pytest.fixture
def beyond_attention(with_lora, tmp_path):
    """The config of a tiny pipeline with a LoRA on attention and on convolutions and projections beside it."""

    def make(kind, attributed="auto", keep="", more=None):
        tensors = spelled(state_of(adapted(kind)), "peft", NETWORK[kind])
        kept = {name: value for name, value in tensors.items() if keep in name}
        config = with_lora(kind, kept | (more or {}))
        return config.model_copy(update={"lora": str(tmp_path), "attributed": attributed})

    return make


def count(shapes):
    return sum(torch.Size(shape).numel() for shape in shapes.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_lora_is_every_lora_tensor_and_the_default_those_in_transformer_blocks(kind, beyond_attention):
    denoiser = load_denoiser(beyond_attention(kind), CPU)
    names = [name for name, _ in denoiser.module.named_parameters() if ".lora_" in name]
    blocks = [name for name in names if "transformer_blocks" in name]
    assert 0 < len(blocks) < len(names)
    assert list(denoiser.attributed_parameters("attributed")) == blocks
    assert list(denoiser.attributed_parameters("whole-lora")) == names
    chosen = load_denoiser(beyond_attention(kind, "whole-lora"), CPU)
    assert list(chosen.attributed_parameters("attributed")) == names
    assert chosen.fingerprint != denoiser.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_whole_lora_are_those_of_a_direct_call_of_diffusers(kind, beyond_attention, pictures):
    config = beyond_attention(kind, "whole-lora")
    denoiser, pipeline, grid = load_denoiser(config, CPU), pipeline_of(config), TimestepGrid(steps=2, kind="uniform")
    rows = whole(denoiser, pictures, GradientSource(grid=grid), Unit(0, 2))
    names = list(denoiser.attributed_parameters("attributed"))
    noise = gaussian(denoiser.latent_shape, "noise", 0)[None]
    for step, t in enumerate(denoiser.timesteps(grid)):
        for item in range(2):
            pair = pictures.images[item], pictures.prompts[item]
            assert relative_error(rows[step, item], direct_gradient(pipeline, names, pair, t, noise, "trained")) < 1e-5


@pytest.mark.parametrize(("attributed", "said"), [("auto", "lora"), ("lora", "lora"), ("transformer-blocks",) * 2])
def test_a_line_says_which_part_of_the_lora_is_differentiated(attributed, said, beyond_attention):
    config = beyond_attention("sd1", attributed)
    description = describe_model(config)
    part, of = count(description.parameters("lora")), count(description.parameters("whole-lora"))
    line = f"attributed={said}: {part:,} of the LoRA's {of:,} parameters are differentiated"
    assert description.adapter_lines == [description.adapter_summary, f"{line}; attributed=whole-lora takes all"]
    assert load_denoiser(config, CPU).adapter_part == description.outline.adapter_part


@pytest.mark.parametrize("attributed", ["whole-lora", "all"])
def test_nothing_is_said_where_all_of_it_is_differentiated(attributed, beyond_attention, source_of):
    assert describe_model(beyond_attention("sd1", attributed)).outline.adapter_part == ""
    assert describe_model(source_of("sd1", lora=True)).outline.adapter_part == ""  # attention layers alone
    assert describe_model(source_of("sd1")).adapter_lines == []


def test_a_lora_beside_the_transformer_blocks_alone_is_refused_with_the_choice_that_takes_it(beyond_attention):
    description = describe_model(beyond_attention("sd1", keep="conv"))
    with pytest.raises(UsageError, match="no such parameters; attributed=whole-lora takes those of its LoRA"):
        description.parameters()
    assert description.outline.adapter_part.startswith("attributed=lora: 0 of the LoRA's ")
    assert description.parameters("whole-lora")


def test_a_lora_of_the_text_encoder_is_said_to_be_left_out(beyond_attention):
    layer = "encoder.layers.0.self_attn.q_proj"
    more = {TEXT["peft"](layer, side): torch.ones(shape) for side, shape in (("down", (4, 32)), ("up", (32, 4)))}
    description = describe_model(beyond_attention("sd1", "whole-lora", more=more))
    assert description.adapter_summary.endswith("; that of text_encoder is never differentiated")
    assert "never differentiated" not in describe_model(beyond_attention("sd1")).adapter_summary


def test_a_family_with_words_of_its_own_for_one_choice_keeps_the_others(beyond_attention, monkeypatch):
    denoiser = load_denoiser(beyond_attention("sd1"), CPU)
    expected = list(denoiser.attributed_parameters("whole-lora"))
    monkeypatch.setattr(StableDiffusionDenoiser, "attributed_words", {"transformer-blocks": ("resnets",)})
    assert list(denoiser.attributed_parameters("whole-lora")) == expected
    assert all("resnets" in name for name in denoiser.attributed_parameters("transformer-blocks"))
