"""Reading of LoRA files: every tensor is given its layer, or the file is refused by the name of one that has none."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from attrbench.errors import AttrbenchError
from attrbench.models.late import peft
from attrbench.models.lora_names import ALPHA, DOWN, UP, LayerNames, TensorName
from attrbench.models.peft_folder import peft_config
from attrbench.models.weight_files import open_weights
from attrbench.text import plain

METADATA = "lora_adapter_metadata"
"""Entry of a safetensors header in which diffusers keeps alpha."""


class Misfit(AttrbenchError):
    """An error for a LoRA file that holds what its model has no place for, or lacks what a layer needs."""


@dataclass
class Adapter:
    """The LoRA of one component of a pipeline.

    Attributes:
        tensors: LAYER.ROLE -> tensor, as peft names them.
        alphas: layer -> alpha, for layers of which the file says it.
        rslora: whether the scale is alpha / sqrt(rank) instead of alpha / rank.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)
    rslora: bool = False

    @property
    def ranks(self) -> dict[str, int]:
        """Return layer -> rank, in the order of the file."""
        end = f".{DOWN}"
        return {key.removesuffix(end): value.shape[0] for key, value in self.tensors.items() if key.endswith(end)}

    def alpha(self, layer: str) -> float:
        """Return a layer's alpha; its rank where the file says none, as diffusers does, so that the scale is 1."""
        return self.alphas.get(layer, self.ranks[layer])

    def scales(self) -> set[float]:
        """Return the factors by which the products B A of the layers are multiplied."""
        return {self.alpha(layer) / (math.sqrt(rank) if self.rslora else rank) for layer, rank in self.ranks.items()}


def lora_digests(file: Path, digest: Callable[[Path], str]) -> dict[str, str]:
    """Return the digest of each file that decides a LoRA, for the model's fingerprint: `lora` is the weights'."""
    config = peft_config(file)
    return {"lora": digest(file)} | ({} if config is None else {f"lora {config.name}": digest(config)})


def read_lora(file: Path, parts: Mapping[str, torch.nn.Module], option: str) -> tuple[dict[str, Adapter], int]:
    """Return the LoRA of each component that a file holds one for, and the number of tensors in the file.

    For components on the device `meta` only the header and alphas are read, and the tensors are on `meta` as well.

    Args:
        file: the weights.
        parts: component -> network or text encoder without LoRA; the network comes first.
        option: for errors, such as `lora=PATH`.

    Raises:
        Misfit: one line that names file and tensor, where one of them finds no layer, or a layer lacks one.
        AttrbenchError: where the file can't be read.
    """
    weights = open_weights(file, option)
    places = _places(list(weights.keys()), LayerNames(parts), f"{plain(file)}", " or ".join(parts))
    adapters: dict[str, Adapter] = {}
    for key, (part, layer, role) in places.items():
        adapter = adapters.setdefault(part, Adapter())
        if role == ALPHA:
            adapter.alphas[layer] = _number(weights.get_tensor(key), key, file)
        else:
            adapter.tensors[f"{layer}.{role}"] = _tensor(weights, key, parts[part], file)
    keys = {place: key for key, place in places.items()}
    for part, adapter in adapters.items():
        _check_layers(part, adapter, parts[part], keys, file)
        _add_config(adapter, _config(file, weights.metadata() or {}, part, part == next(iter(parts))), file)
    return {part: adapters[part] for part in parts if part in adapters}, len(places)


def _places(keys: Iterable[str], names: LayerNames, file: str, parts: str) -> dict[str, TensorName]:
    """Return the place of every tensor of a file, by its name there.

    Raises:
        Misfit: where one has none, or two have the same.
    """
    found = {key: names.find(key) for key in keys}
    strays = sorted(key for key, place in found.items() if place is None)
    if strays or not found:
        which = f"{len(strays)} of {len(found)} tensors of {file} find no layer in {parts}"
        raise Misfit(f"{which}, the first is {plain(strays[0])}" if strays else f"{file} holds no tensor")
    places = {key: place for key, place in found.items() if place is not None}
    taken: dict[TensorName, str] = {}
    for key, place in places.items():
        if (other := taken.setdefault(place, key)) != key:
            raise Misfit(f"{file} has two tensors for one place, {plain(other)} and {plain(key)}")
    return places


def _tensor(weights: Any, key: str, part: torch.nn.Module, file: Path) -> torch.Tensor:
    if next(part.parameters()).device.type == "meta":
        return torch.empty(weights.get_slice(key).get_shape(), device="meta")
    tensor: torch.Tensor = weights.get_tensor(key)
    if not (tensor.is_floating_point() and tensor.isfinite().all()):
        raise Misfit(f"{plain(file)}: {plain(key)} holds other numbers than finite floating point ones")
    return tensor


def _number(value: torch.Tensor, key: str, file: Path) -> float:
    if value.numel() != 1 or not value.isfinite().all():
        raise Misfit(f"{plain(file)}: {plain(key)} is not one finite number")
    return float(value)


def _check_layers(
    part: str, adapter: Adapter, module: torch.nn.Module, keys: Mapping[TensorName, str], file: Path
) -> None:
    """Raise an error for a layer with one matrix of the two, or with matrices of another shape than its weight.

    Raises:
        Misfit: naming the file's tensor.
    """
    for (component, layer, role), key in keys.items():
        if component != part:
            continue
        where, down, up = f"{plain(file)}: {plain(key)}", f"{layer}.{DOWN}", f"{layer}.{UP}"
        if down not in adapter.tensors or up not in adapter.tensors:
            raise Misfit(f"{where} has no counterpart: layer {layer} of {part} needs {DOWN} and {UP}")
        weight = module.get_parameter(f"{layer}.weight")
        rank = max((1, *adapter.tensors[down].shape[:1]))
        ones = (1,) * (weight.dim() - 2)
        fitting = {DOWN: (rank, *weight.shape[1:]), UP: (weight.shape[0], rank, *ones)}
        found = None if role not in fitting else tuple(adapter.tensors[f"{layer}.{role}"].shape)
        if found not in (None, fitting.get(role)):
            raise Misfit(f"{where} has shape {list(found or ())}, layer {layer} of {part} takes {list(fitting[role])}")


def _config(file: Path, metadata: Mapping[str, str], part: str, is_network: bool) -> dict[str, Any]:
    """Return peft's configuration of a component's LoRA: from the header, or from the file beside; empty if neither.

    Raises:
        Misfit: where it is no JSON object.
    """
    beside = peft_config(file)
    try:
        if METADATA not in metadata:
            found = {} if beside is None or not is_network else json.loads(beside.read_bytes())
        else:
            entries = dict(json.loads(metadata[METADATA]))
            own = {key.removeprefix(f"{part}."): value for key, value in entries.items() if key.startswith(f"{part}.")}
            whole = is_network and "lora_alpha" in entries  # of `save_lora_adapter`, for the network alone
            found = entries if whole else own
        return dict(found)
    except (OSError, ValueError, TypeError, RecursionError):
        where = file if METADATA in metadata or beside is None else beside
        raise Misfit(f"{plain(where)} has a LoRA configuration that is no JSON object") from None


def _add_config(adapter: Adapter, config: Mapping[str, Any], file: Path) -> None:
    """Add alphas and the kind of scale from peft's configuration.

    Raises:
        Misfit: where alpha is no number, or tensors say it as well.
    """
    if "lora_alpha" not in config:
        return
    if adapter.alphas:
        raise Misfit(f"{plain(file)} gives alpha twice, in tensors and in a configuration: remove one of them")
    try:
        pattern: dict[str, Any] = dict(config.get("alpha_pattern") or {})
        adapter.rslora = bool(config.get("use_rslora"))
        adapter.alphas = {
            layer: float(pattern.get(peft.utils.other.get_pattern_key(list(pattern), layer), config["lora_alpha"]))
            for layer in adapter.ranks
        }
    except (AttributeError, TypeError, ValueError, re.error):
        raise Misfit(f"{plain(file)}: alpha in its configuration is no number") from None
