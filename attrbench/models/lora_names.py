"""The names that LoRA files give to their tensors: diffusers, old and new, attention processors, peft and kohya.

One and the same matrix is called `unet.down.0.to_out.0.lora_A.weight` (peft in diffusers), the same with `.lora.down`
(diffusers before), `unet.down.0.processor.to_out_lora.down.weight` (attention processors),
`base_model.model.down.0.to_out.0.lora_A.default.weight` (peft alone) or `lora_unet_down_0_to_out_0.lora_down.weight`
(kohya). A file may mix them. So names are compared with those of the layers that a model has, dots and prefixes aside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch

DOWN, UP, BIAS, MAGNITUDE, ALPHA = "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector", "alpha"
"""What a tensor is to its layer, in peft's words: the matrices A and B, B's bias, DoRA's norms, and the scale."""
_MATRIX = re.compile(
    r"(?P<layer>.+?)[._]lora(?:_linear_layer)?[._](?P<side>A|B|down|up)(?:\.(?!weight|bias)[^.]+)?\.(?P<kind>weight|bias)"
)
_OTHER = re.compile(r"(?P<layer>.+)\.(?P<role>alpha|lora_magnitude_vector)(?:\.weight)?")
_KOHYA = {
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
    "text_encoder_3": ("lora_te3_",),
}
_NETWORK = ("unet_", "transformer_", "lora_unet_", "lora_transformer_", "")
"""Prefixes of a network's layers; a file for the network alone needs none."""


class TensorName(NamedTuple):
    """The place of one tensor of a LoRA file in a model.

    Attributes:
        part: component of the pipeline.
        layer: name of the adapted layer in it.
        role: what the tensor is to the layer: one of the constants above.
    """

    part: str
    layer: str
    role: str


class LayerNames:
    """The layers of a pipeline that can have a LoRA, found by any of the names that files give them.

    Args:
        parts: component -> network or text encoder.
    """

    def __init__(self, parts: Mapping[str, torch.nn.Module]) -> None:
        self._layers = {
            part: {
                _plain(own := name.removesuffix(".base_layer")): own  # of a layer that has its LoRA already
                for name, layer in module.named_modules()
                if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and ".lora_" not in name
            }
            for part, module in parts.items()
        }

    def find(self, key: str) -> TensorName | None:
        """Return the place of the tensor that a file calls `key`; None where no layer has that name."""
        if match := _MATRIX.fullmatch(key):
            side = "A" if match["side"] in ("A", "down") else "B"
            role = f"lora_{side}.{match['kind']}"
        elif match := _OTHER.fullmatch(key):
            role = match["role"]
        if match is None or role == "lora_A.bias":
            return None
        name = _plain(match["layer"].removeprefix("base_model.model."))
        for part, layers in self._layers.items():
            for prefix in _prefixes(part):
                inner = name.removeprefix(prefix).removeprefix("text_model_")
                if name.startswith(prefix) and inner in layers:
                    return TensorName(part, layers[inner], role)
        return None


def _prefixes(part: str) -> tuple[str, ...]:
    return (f"{part}_", *_KOHYA.get(part, _NETWORK))


def _plain(name: str) -> str:
    """Return a layer's name without what spellings differ in: dots, `processor`, and text encoders' projections."""
    name = name.replace(".processor.", ".").replace(".", "_").removeprefix("text_model_")
    return re.sub(r"to_out_0$|out_proj$", "to_out", re.sub(r"([qkv])_proj$", r"to_\1", name))
