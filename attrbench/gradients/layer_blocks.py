"""Divide the concatenated gradient into layers, for features that keep layers apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from attrbench.contracts.gradient_source import Layers
from attrbench.errors import AttrbenchError

_LORA = re.compile(r"\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)(?:\..*)?$")


@dataclass(frozen=True)
class LayerBlock:
    """One layer's part of the concatenated gradient: its name, its parameters' offsets and its size.

    Attributes:
        name: name of the module or parameter; empty for the whole gradient.
        places: for each parameter, offset in the concatenated gradient -> offset in the layer's own vector.
        size: number of entries.
    """

    name: str
    places: Mapping[int, int]
    size: int


def layer_blocks(offsets: Mapping[str, int], sizes: Mapping[str, int], layers: Layers) -> list[LayerBlock]:
    """Return the layers into which a gradient is divided, in the order of their first parameters.

    A module's weight and bias are one layer, as are the LoRA matrices A and B of one module; `all` is a single layer.

    Args:
        offsets: parameter name -> offset in the concatenated gradient.
        sizes: parameter name -> number of entries.
        layers: what counts as a layer: `all`, `module` or `parameter`.
    """
    places: dict[str, dict[int, int]] = {}
    total: dict[str, int] = {}
    for name, offset in offsets.items():
        layer = _layer(name, layers)
        places.setdefault(layer, {})[offset] = total.get(layer, 0)
        total[layer] = total.get(layer, 0) + sizes[name]
    return [LayerBlock(layer, places[layer], total[layer]) for layer in places]


def is_lora(parameter: str) -> bool:
    """Return whether a parameter, by its name, is part of a LoRA adapter."""
    return _LORA.search(parameter) is not None


def _layer(parameter: str, layers: Layers) -> str:
    if layers == "all":
        return ""
    if layers == "parameter":
        return parameter
    stripped = _LORA.sub("", parameter)
    return parameter.rpartition(".")[0] if stripped == parameter else stripped


def layer_columns(blocks: list[LayerBlock], length: int | None) -> dict[str, slice]:
    """Return layer name -> columns in a row in which each layer is sketched to min(length, size) numbers.

    Args:
        blocks: the layers.
        length: sketch length v; None for rows that are whole gradients.

    Raises:
        AttrbenchError: where the parameters of a layer are not contiguous in the whole gradient.
    """
    columns, start = {}, 0
    for block in blocks:
        width = block.size if length is None else min(length, block.size)
        if length is None and any(offset - start != own for offset, own in block.places.items()):
            raise AttrbenchError(f"the parameters of layer {block.name} do not stand side by side: give a sketch")
        columns[block.name] = slice(start, start + width)
        start += width
    return columns
