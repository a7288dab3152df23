"""One LoRA in all the spellings that its file may have."""

import json
import re

import pytest
import torch

from attrbench.errors import AttrbenchError
from attrbench.models.loading import describe_model, load_denoiser
from tests.models.pipelines import build, network_of

TARGETS = {
    "sd1": r".*(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2|conv1|time_emb_proj)|conv_in",
    "sd3": r".*(to_q|to_k|to_v|to_out\.0|add_q_proj|to_add_out|ff\.net\.0\.proj|ff_context\.net\.2|linear)|proj_out",
}
"""Layers in attention and beyond it, convolutions among them."""
FILE = "pytorch_lora_weights.safetensors"
NETWORK = {"sd1": "unet", "sd3": "transformer"}


def adapted(kind, alpha=4, **options):
    """The network of a tiny pipeline with a LoRA of rank 4 that peft put in, A and B drawn anew."""
    from peft import LoraConfig

    network = network_of(build(kind))
    network.add_adapter(LoraConfig(r=4, lora_alpha=alpha, target_modules=TARGETS[kind], **options))
    draw(network)
    return network.eval()


def draw(network):
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if "lora" in name:
            parameter.data.normal_(std=0.1, generator=generator)


def state_of(network):
    from peft.utils import get_peft_model_state_dict

    return {name: value.contiguous() for name, value in get_peft_model_state_dict(network).items()}


def _halves(name, down, up):
    return name.replace(".lora_A.", down).replace(".lora_B.", up)


def _kohya(name, prefix):
    layer, half = re.fullmatch(r"(.+)\.(lora_[AB]\.weight)", name).groups()
    return f"{prefix}_{layer.replace('.', '_')}.{_halves('.' + half, 'lora_down.', 'lora_up.')}"


def processor(name):
    """The name as diffusers' attention processors had it; layers beside attention had none."""
    attention = re.fullmatch(r"(.+)\.(to_q|to_k|to_v|to_out)(?:\.0)?\.lora_([AB])\.weight", name)
    if attention is None:
        return _halves(name, ".lora.down.", ".lora.up.")
    block, projection, side = attention.groups()
    return f"{block}.processor.{projection}_lora.{'down' if side == 'A' else 'up'}.weight"


def idiom(name):
    """The name that diffusers' `convert_state_dict_to_diffusers` gives: attention in the old spelling, the rest not."""
    return _halves(name, ".lora.down.", ".lora.up.") if re.search(r"to_([qkv]|out\.0)\.lora", name) else name


SPELLINGS = {
    "peft": lambda name, part: f"{part}.{name}",
    "peft-bare": lambda name, part: name,
    "peft-model": lambda name, part: f"base_model.model.{name}",
    "peft-model-of-the-part": lambda name, part: f"base_model.model.{part}.{name}",
    "peft-adapter-name": lambda name, part: f"{part}.{name.replace('.weight', '.default.weight')}",
    "diffusers-old": lambda name, part: f"{part}.{_halves(name, '.lora.down.', '.lora.up.')}",
    "processors": lambda name, part: f"{part}.{processor(name)}",
    "processors-bare": lambda name, part: processor(name),
    "diffusers-idiom": lambda name, part: f"{part}.{idiom(name)}",
    "kohya": lambda name, part: _kohya(name, "lora_unet"),
    "kohya-of-the-part": lambda name, part: _kohya(name, f"lora_{part}"),
    "mixed": lambda name, part: (
        f"{part}.{name}"
        if "to_q" in name
        else _kohya(name, "lora_unet")
        if "ff" in name
        else f"{part}.{processor(name)}"
    ),
}


def spelled(state, spelling, part):
    return {SPELLINGS[spelling](name, part): value for name, value in state.items()}


def header(part, **config):
    """The header in which diffusers keeps a LoRA's configuration."""
    return {"lora_adapter_metadata": json.dumps({f"{part}.{key}": value for key, value in config.items()})}


TEXT = {
    "diffusers": lambda layer, side: f"text_encoder.text_model.{layer}.lora_linear_layer.{side}.weight",
    "peft": lambda layer, side: f"text_encoder.{layer}.lora_{'A' if side == 'down' else 'B'}.weight",
    "kohya": lambda layer, side: f"lora_te_text_model_{layer.replace('.', '_')}.lora_{side}.weight",
    "kohya-xl": lambda layer, side: f"lora_te1_text_model_{layer.replace('.', '_')}.lora_{side}.weight",
    "old": lambda layer, side: (
        f"text_encoder.text_model.{layer.replace('out_proj', 'to_out').replace('q_proj', 'to_q')}_lora.{side}.weight"
    ),
}


def refused(config, *parts):
    """Both the plan and the run refuse it, in one line that says these things."""
    for load in (lambda: describe_model(config), lambda: load_denoiser(config, torch.device("cpu"))):
        with pytest.raises(AttrbenchError) as caught:
            load()
        line = str(caught.value)
        assert line.isprintable()
        assert len(line) < 600
        for part in (config.lora, *parts):
            assert part in line
    return line
