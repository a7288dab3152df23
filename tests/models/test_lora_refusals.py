"""A LoRA file that does not fit its model is refused in one line that names file and tensor."""

import pytest
import torch

from attrbench.errors import AttrbenchError
from attrbench.models.loading import load_denoiser
from tests.models.lora_files import FILE, TEXT, adapted, refused, spelled, state_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("spelling", ["peft", "kohya", "processors"])
def test_a_tensor_that_finds_no_layer_is_named(spelling, with_lora):
    tensors = spelled(state_of(adapted("sd1")), spelling, "unet")
    name = sorted(tensors)[0]
    stray = name.replace("conv_in", "conv_no").replace("down_blocks", "down_blacks")
    assert stray != name
    refused(with_lora("sd1", tensors | {stray: tensors[name].clone()}), stray, f"1 of {len(tensors) + 1} tensors")


@pytest.mark.parametrize(
    "stray",
    [
        "lora_unet_conv_in.hada_w1_a",
        "unet.conv_in.lokr_w1",
        "unet.conv_in.bias",
        "unet.conv_in.diff",
        "unet.conv_in.lora_A.bias",
        "lora_unet_conv_in.dora_scale",
        "text_encoder_2.encoder.layers.0.mlp.fc1.lora_A.weight",
        "vae.encoder.conv_in.lora_A.weight",
        "lora_controlnet",
    ],
)
def test_what_is_no_lora_of_the_model_is_named(stray, with_lora):
    tensors = spelled(state_of(adapted("sd1")), "peft", "unet") | {stray: torch.zeros(4, 4)}
    refused(with_lora("sd1", tensors), stray, "does not fit model")


def test_a_name_with_control_characters_is_shown_without_them(with_lora):
    tensors = spelled(state_of(adapted("sd1")), "peft", "unet") | {"a\x1b[2J\nb": torch.zeros(1)}
    refused(with_lora("sd1", tensors), "a?[2J?b")


@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
def test_half_a_layer_is_named(half, with_lora):
    tensors = spelled(state_of(adapted("sd1")), "peft", "unet")
    name = next(name for name in sorted(tensors) if half in name)
    other = name.replace(half, {"lora_A": "lora_B", "lora_B": "lora_A"}[half])
    del tensors[name]
    refused(with_lora("sd1", tensors), other, "has no counterpart")


def test_an_alpha_without_matrices_is_named(with_lora):
    tensors = spelled(state_of(adapted("sd1")), "peft", "unet") | {"unet.conv_out.alpha": torch.tensor(4.0)}
    refused(with_lora("sd1", tensors), "unet.conv_out.alpha", "has no counterpart")


def test_two_tensors_for_one_place_are_both_named(with_lora):
    tensors = spelled(state_of(adapted("sd1")), "peft", "unet")
    old = "unet.conv_in.lora.down.weight"
    refused(with_lora("sd1", tensors | {old: torch.zeros(4, 4, 3, 3)}), old, "unet.conv_in.lora_A.weight")


@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
def test_a_matrix_of_another_shape_is_named(half, with_lora):
    tensors = spelled(state_of(adapted("sd1")), "peft", "unet")
    name = next(name for name in sorted(tensors) if half in name and "to_q" in name)
    tensors[name] = torch.zeros(4, 3) if half == "lora_A" else torch.zeros(3, 4)
    refused(with_lora("sd1", tensors), name, f"has shape {list(tensors[name].shape)}")


@pytest.mark.parametrize("shape", [(), (0, 8), (4,), (4, 8, 1)], ids=str)
def test_a_matrix_that_is_none_is_named(shape, with_lora):
    tensors = spelled(state_of(adapted("sd1")), "peft", "unet")
    name = next(name for name in sorted(tensors) if "to_q.lora_A" in name)
    refused(with_lora("sd1", tensors | {name: torch.zeros(shape)}), name, f"has shape {list(shape)}")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 3], ids=str)
def test_numbers_that_no_weight_has_are_named(wrong, with_lora):
    tensors = spelled(state_of(adapted("sd1")), "peft", "unet")
    name = next(name for name in sorted(tensors) if "to_q.lora_A" in name)
    config = with_lora("sd1", tensors | {name: torch.full_like(tensors[name], wrong).to(type_of(wrong))})
    with pytest.raises(AttrbenchError, match=f"{name} holds other numbers than finite floating point ones"):
        load_denoiser(config, CPU)


def type_of(number):
    return torch.int8 if isinstance(number, int) else torch.float32


def test_a_lora_of_another_model_is_refused(with_lora):
    refused(with_lora("sd1", spelled(state_of(adapted("sd3")), "peft", "transformer")), "transformer.")
    only_text = {TEXT["peft"]("encoder.layers.0.mlp.fc1", side): torch.zeros(4, 4) for side in ("down", "up")}
    only_text[TEXT["peft"]("encoder.layers.0.mlp.fc1", "down")] = torch.zeros(4, 32)
    only_text[TEXT["peft"]("encoder.layers.0.mlp.fc1", "up")] = torch.zeros(37, 4)
    refused(with_lora("sd1", only_text), "has no tensor of the unet")
    refused(with_lora("sd1", {}), "holds no tensor")


def test_a_file_that_cannot_be_read_is_one_line(with_lora, tmp_path):
    config = with_lora("sd1", spelled(state_of(adapted("sd1")), "peft", "unet"))
    whole = (tmp_path / FILE).read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:20], b"", b"no", b"\xff" * 64):
        (tmp_path / FILE).write_bytes(damaged)
        refused(config, FILE, "is no readable safetensors file")
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).symlink_to("/proc/self/mem")
    refused(config, FILE)
