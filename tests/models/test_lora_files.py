"""A LoRA is loaded whole, in any spelling, or refused in one line that names file and tensor."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from attrbench.errors import AttrbenchError
from attrbench.models.config import ModelConfig
from attrbench.models.loading import describe_model, load_denoiser
from tests.models.lora_files import NETWORK, SPELLINGS, adapted, draw, header, spelled, state_of
from tests.models.pipelines import TARGETS, build, network_of

CPU = torch.device("cpu")
FILE = "pytorch_lora_weights.safetensors"
KINDS = ("sd1", "sd3")


def output(network, kind):
    """What a network predicts for one fixed input."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn((2, 4 if kind == "sd1" else 8, 8, 8), generator=generator)
    conditioning = {"encoder_hidden_states": torch.randn((2, 5, 32 if kind == "sd1" else 64), generator=generator)}
    if kind == "sd3":
        conditioning["pooled_projections"] = torch.randn((2, 64), generator=generator)
    with torch.no_grad():
        return network(x, timestep=torch.tensor([300, 700]), **conditioning).sample


@pytest.fixture
def with_lora(folders, tmp_path):
    """The config of a tiny pipeline with a LoRA file of these tensors and this header."""

    def make(kind, tensors, metadata=None, name=FILE):
        save_file(tensors, tmp_path / name, metadata=metadata)
        return ModelConfig(model=str(folders(kind)), lora=str(tmp_path / name), sampling_steps=4)

    return make


def refused(config, *parts):
    """Both the plan and the run refuse it, in one line that says these things."""
    for load in (lambda: describe_model(config), lambda: load_denoiser(config, CPU)):
        with pytest.raises(AttrbenchError) as caught:
            load()
        line = str(caught.value)
        assert line.isprintable()
        assert len(line) < 600
        for part in (config.lora, *parts):
            assert part in line
    return line


# --- spellings


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_gives_the_network_that_peft_has(spelling, kind, with_lora):
    network = adapted(kind)
    state = state_of(network)
    denoiser = load_denoiser(with_lora(kind, spelled(state, spelling, NETWORK[kind])), CPU)
    expected = output(network, kind)
    assert torch.equal(output(denoiser.module, kind), expected)
    assert not torch.allclose(output(network_of(build(kind)), kind), expected, atol=1e-3)
    own = {name: value for name, value in network.named_parameters() if "lora" in name}
    found = {name: value for name, value in denoiser.module.named_parameters() if "lora" in name}
    assert list(found) == list(own)
    assert all(torch.equal(found[name], own[name]) for name in own)
    assert f"{len(state)} tensors in {len(state) // 2} modules of {NETWORK[kind]}, rank 4, scale 1" in (
        denoiser.adapter_summary
    )


def test_the_file_of_diffusers_own_idiom_is_loaded_whole(folders, tmp_path):
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers

    network = adapted("sd1")
    layers = convert_state_dict_to_diffusers(state_of(network))
    StableDiffusionPipeline.save_lora_weights(str(tmp_path), unet_lora_layers=layers)
    names = list(load_file(tmp_path / FILE))
    assert any(".lora.down." in name for name in names)
    assert any(".lora_A." in name for name in names)
    denoiser = load_denoiser(ModelConfig(model=str(folders("sd1")), lora=str(tmp_path)), CPU)
    assert torch.equal(output(denoiser.module, "sd1"), output(network, "sd1"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_means_one_layer(kind):
    """No two layers of a network or text encoder are one, dots and prefixes aside."""
    from attrbench.models.lora_names import LayerNames, TensorName

    pipeline = build(kind)
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    parts = {NETWORK[kind]: parts.pop(NETWORK[kind])} | {n: p for n, p in parts.items() if n.startswith("text")}
    names = LayerNames(parts)
    for part, module in parts.items():
        for layer, inner in module.named_modules():
            if isinstance(inner, torch.nn.Linear | torch.nn.Conv2d):
                place = TensorName(part, layer, "lora_A.weight")
                assert names.find(f"{part}.{layer}.lora_A.weight") == place


def test_ranks_may_differ_from_layer_to_layer(with_lora):
    network = adapted("sd1", rank_pattern={"to_q": 2, "conv1": 6}, alpha_pattern={"to_q": 2, "conv1": 6})
    denoiser = load_denoiser(with_lora("sd1", spelled(state_of(network), "kohya", "unet")), CPU)
    assert torch.equal(output(denoiser.module, "sd1"), output(network, "sd1"))
    assert "rank 2 to 6, scale 1" in denoiser.adapter_summary


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}], ids=str)
def test_tensors_beside_the_two_matrices_are_loaded_as_well(options, with_lora):
    network = adapted("sd1", **options)
    denoiser = load_denoiser(with_lora("sd1", spelled_whole(state_of(network))), CPU)
    torch.testing.assert_close(output(denoiser.module, "sd1"), output(network, "sd1"), rtol=0, atol=1e-6)


def spelled_whole(state):
    return {f"unet.{name}": value for name, value in state.items()}


# --- alpha


def alphas_of(state, prefix, alpha):
    layers = {name.rpartition(".lora_")[0] for name in state}
    squashed = prefix.endswith("_")
    return {
        f"{prefix}{layer.replace('.', '_') if squashed else layer}.alpha": torch.tensor(float(alpha))
        for layer in layers
    }


@pytest.mark.parametrize("spelling", ["kohya", "diffusers-old"])
def test_alpha_in_tensors_scales_each_layer(spelling, with_lora):
    network = adapted("sd1", alpha=8)
    state = state_of(network)
    alphas = alphas_of(state, "lora_unet_" if spelling == "kohya" else "unet.", 8)
    config = with_lora("sd1", spelled(state, spelling, "unet") | alphas)
    denoiser = load_denoiser(config, CPU)
    assert torch.equal(output(denoiser.module, "sd1"), output(network, "sd1"))
    assert denoiser.module.peft_config["default"].lora_alpha == 8
    assert f"{len(state) + len(alphas)} tensors" in denoiser.adapter_summary
    assert denoiser.adapter_summary.endswith("scale 2")


def test_layers_without_alpha_keep_scale_one_beside_those_with_it(with_lora):
    network = adapted("sd1", alpha=4, alpha_pattern={"to_q": 1})
    state = state_of(network)
    some = alphas_of({name: value for name, value in state.items() if "to_q" in name}, "lora_unet_", 1)
    denoiser = load_denoiser(with_lora("sd1", spelled(state, "kohya", "unet") | some), CPU)
    assert torch.equal(output(denoiser.module, "sd1"), output(network, "sd1"))
    assert denoiser.adapter_summary.endswith("scale 0.25 to 1")


@pytest.mark.parametrize("rslora", [False, True])
def test_alpha_in_the_header_is_that_of_the_layers(rslora, with_lora):
    network = adapted("sd1", alpha=3, alpha_pattern={"to_k": 5}, use_rslora=rslora)
    kept = header("unet", r=4, lora_alpha=3, alpha_pattern={"to_k": 5}, use_rslora=rslora)
    denoiser = load_denoiser(with_lora("sd1", spelled(state_of(network), "mixed", "unet"), kept), CPU)
    assert torch.equal(output(denoiser.module, "sd1"), output(network, "sd1"))
    scales = "1.5 to 2.5" if rslora else "0.75 to 1.25"
    assert denoiser.adapter_summary.endswith(f"scale {scales}")


def test_alpha_of_a_folder_that_peft_saved_is_read_and_identifies_the_model(folders, tmp_path):
    from peft import LoraConfig, get_peft_model

    network = network_of(build("sd1"))
    whole = get_peft_model(network, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS))
    draw(whole)
    whole.save_pretrained(str(tmp_path))
    config = ModelConfig(model=str(folders("sd1")), lora=str(tmp_path))
    denoiser = load_denoiser(config, CPU)
    with torch.no_grad():
        assert torch.equal(output(denoiser.module, "sd1"), output(whole.eval(), "sd1"))
    assert denoiser.adapter_summary.endswith("scale 2")
    settings = tmp_path / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"lora_alpha": 4}))
    assert load_denoiser(config, CPU).adapter_summary.endswith("scale 1")
    assert load_denoiser(config, CPU).fingerprint == describe_model(config).fingerprint != denoiser.fingerprint


def test_a_task_file_is_another_once_the_alpha_beside_its_lora_changes(folders, tmp_path):
    from attrbench.taskfile.read import read_task

    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    settings = tmp_path / "adapter_config.json"
    settings.write_text('{"lora_alpha": 8}')
    text = f'[task]\nname = "mine"\n[model]\nmodel = "{folders("sd1")}"\nlora = "adapter_model.safetensors"\n'
    (tmp_path / "mine.toml").write_text(text + '[train]\npath = "images"\n')
    before = read_task(tmp_path / "mine.toml", {}).state()
    settings.write_text('{"lora_alpha": 16}')
    assert read_task(tmp_path / "mine.toml", {}).state() != before


def test_a_file_without_alpha_has_scale_one_and_the_plan_says_so(with_lora):
    config = with_lora("sd1", spelled(state_of(adapted("sd1")), "peft", "unet"))
    assert describe_model(config).adapter_summary.endswith("scale 1 (the file gives no alpha)")


def test_alpha_that_is_said_twice_or_is_no_number_is_refused(with_lora):
    state = state_of(adapted("sd1"))
    tensors, alphas = spelled(state, "kohya", "unet"), alphas_of(state, "lora_unet_", 8)
    refused(with_lora("sd1", tensors | alphas, header("unet", lora_alpha=8)), "gives alpha twice")
    key = sorted(alphas)[0]
    refused(with_lora("sd1", tensors | alphas | {key: torch.tensor(float("nan"))}), key, "not one finite number")
    refused(with_lora("sd1", tensors, header("unet", lora_alpha="many")), "alpha in its configuration is no number")
    refused(with_lora("sd1", tensors, {"lora_adapter_metadata": "[" * 9}), "no JSON object")


# --- text encoders


def text_output(encoder):
    tokens = torch.tensor([[52, 1, 2, 53, 53]])
    with torch.no_grad():
        return encoder(tokens)[0]


TEXT = {
    "diffusers": lambda layer, side: f"text_encoder.text_model.{layer}.lora_linear_layer.{side}.weight",
    "peft": lambda layer, side: f"text_encoder.{layer}.lora_{'A' if side == 'down' else 'B'}.weight",
    "kohya": lambda layer, side: f"lora_te_text_model_{layer.replace('.', '_')}.lora_{side}.weight",
    "kohya-xl": lambda layer, side: f"lora_te1_text_model_{layer.replace('.', '_')}.lora_{side}.weight",
    "old": lambda layer, side: (
        f"text_encoder.text_model.{layer.replace('out_proj', 'to_out').replace('q_proj', 'to_q')}_lora.{side}.weight"
    ),
}


@pytest.mark.parametrize("spelling", TEXT)
def test_the_text_encoders_part_is_loaded_in_every_spelling(spelling, with_lora):
    from peft import LoraConfig, inject_adapter_in_model

    encoder = build("sd1").text_encoder.eval()
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "out_proj"]), encoder)
    draw(encoder)
    layers = {
        (name.partition(".lora_")[0].removeprefix("text_model."), "down" if "lora_A" in name else "up"): value
        for name, value in state_of_part(encoder).items()
    }
    text = {TEXT[spelling](layer, side): value for (layer, side), value in layers.items()}
    config = with_lora("sd1", spelled(state_of(adapted("sd1")), "peft", "unet") | text)
    denoiser = load_denoiser(config, CPU)
    assert torch.equal(text_output(denoiser.encoders.pipeline.text_encoder), text_output(encoder))
    assert " and 4 modules of text_encoder, rank 4" in denoiser.adapter_summary
    assert describe_model(config).adapter_summary == denoiser.adapter_summary


def state_of_part(module):
    return {
        name.replace(".default", ""): value.detach().clone()
        for name, value in module.named_parameters()
        if "lora" in name
    }


# --- refusals


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


# --- what is said without weights, and checkpoints


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_says_what_the_run_loads_and_reads_the_header_alone(kind, with_lora, monkeypatch):
    from attrbench.models import lora_file

    tensors = spelled(state_of(adapted(kind)), "mixed", NETWORK[kind])
    config = with_lora(kind, tensors, header(NETWORK[kind], lora_alpha=8))
    denoiser = load_denoiser(config, CPU)
    monkeypatch.setattr(lora_file, "open_weights", lambda file, option: HeaderOnly(file))
    description = describe_model(config)
    assert description.adapter_summary == denoiser.adapter_summary
    shapes = {name: tuple(value.shape) for name, value in denoiser.attributed_parameters("all").items()}
    assert list(description.parameters("all").items()) == list(shapes.items())


class HeaderOnly:
    """A weights file that refuses to give its tensors."""

    def __init__(self, file):
        from safetensors import safe_open

        self._file = safe_open(file, "pt")

    def get_tensor(self, key):
        raise AssertionError(f"{key} was read")

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_without_a_lora_nothing_is_said(load):
    assert load("sd1").adapter_summary == ""


@pytest.mark.parametrize("spelling", ["peft", "kohya", "processors"])
def test_a_checkpoint_may_be_spelled_otherwise_than_the_lora(spelling, with_lora, tmp_path):
    network = adapted("sd1")
    denoiser = load_denoiser(with_lora("sd1", spelled(state_of(network), "mixed", "unet")), CPU)
    (tmp_path / "checkpoints").mkdir()
    earlier = {name: value * 2 for name, value in state_of(network).items()}
    file = tmp_path / "checkpoints" / "step-5.safetensors"
    save_file(spelled(earlier, spelling, "unet"), file)
    loaded = denoiser.at("step-5").module
    network.load_state_dict(
        {name.replace(".weight", ".default.weight"): value for name, value in earlier.items()}, strict=False
    )
    assert torch.equal(output(loaded, "sd1"), output(network, "sd1"))
    for change in (lambda state: state.pop(sorted(state)[0]), lambda state: state.update(extra=torch.zeros(1))):
        state = spelled(earlier, spelling, "unet")
        change(state)
        save_file(state, file)
        with pytest.raises(
            AttrbenchError, match=r"checkpoint step-5\.safetensors does not hold the LoRA of this model"
        ):
            denoiser.at("step-5")
    save_file(spelled(earlier, "kohya", "unet") | alphas_of(earlier, "lora_unet_", 9), file)
    with pytest.raises(AttrbenchError, match="alpha 9, the LoRA has 4"):
        denoiser.at("step-5")
