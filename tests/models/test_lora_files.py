"""A LoRA is loaded whole, in any spelling, or refused in one line that names file and tensor."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from attrbench.errors import AttrbenchError
from attrbench.models.config import ModelConfig
from attrbench.models.loading import describe_model, load_denoiser
from tests.models.lora_files import FILE, NETWORK, SPELLINGS, TEXT, adapted, draw, header, refused, spelled, state_of
from tests.models.pipelines import TARGETS, build, network_of

CPU = torch.device("cpu")
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
