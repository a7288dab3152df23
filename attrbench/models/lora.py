"""Loading of LoRA weights into a pipeline's network and text encoders, with A and B as separate parameters."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from attrbench.contracts.model_config import ModelConfig
from attrbench.errors import AttrbenchError
from attrbench.hub import is_local, snapshot
from attrbench.models.late import peft
from attrbench.models.lora_file import Adapter, Misfit, read_lora
from attrbench.models.lora_names import BIAS, MAGNITUDE
from attrbench.models.peft_folder import PEFT_CONFIG, PEFT_WEIGHTS
from attrbench.models.pipeline_encoders import TEXT_ENCODERS
from attrbench.models.quiet import quiet
from attrbench.text import one_line, plain

WEIGHTS = "pytorch_lora_weights.safetensors"
ADAPTER = "default"
TARGETS = ("to_k", "to_q", "to_v", "to_out.0")
"""Layers with LoRA in DMin's recipe, with rank 4 and alpha 8."""
RANK, ALPHA = 4, 8


def find_lora(config: ModelConfig) -> Path:
    """Return the path of the LoRA weights file that `config.lora` names, downloaded from the hub if it is no path.

    Raises:
        AttrbenchError: where there is none.
    """
    assert config.lora is not None
    path = Path(config.lora).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        if is_local(config.lora):
            raise AttrbenchError(f"lora={config.lora}: there is no such file or folder")
        path = snapshot("lora", config.lora, config.lora_revision, ("*.safetensors", PEFT_CONFIG), ("*/*",))
    for name in (WEIGHTS, PEFT_WEIGHTS):
        if (path / name).is_file():
            return path / name
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise AttrbenchError(f"lora={config.lora}: no {WEIGHTS} there (safetensors files: {names}): name the file")
    return files[0]


def add_lora(pipeline: Any, network: str, config: ModelConfig, file: Path) -> str:
    """Add the LoRA of a weights file to a pipeline and return one line that says what was loaded; all of it, or none.

    Networks on the device `meta` get its layers without weights, of the file's header alone.

    Args:
        pipeline: whose network and text encoders are changed in place.
        network: the name of its network.
        config: names the LoRA and the model.
        file: the weights, in any of the spellings of `attrbench.models.lora_names`.

    Raises:
        AttrbenchError: where a tensor of the file finds no layer, or a layer lacks one.
    """
    names = (network, *TEXT_ENCODERS)
    parts = {name: part for name in names if (part := getattr(pipeline, name, None)) is not None}
    try:
        adapters, tensors = read_lora(file, parts, f"lora={config.lora}")
        if network not in adapters:
            raise Misfit(f"{plain(file)} has no tensor of the {network}")
        for part, adapter in adapters.items():
            _insert(parts[part], adapter, file)
    except Misfit as error:
        raise AttrbenchError(f"lora={plain(config.lora)} does not fit model {plain(config.model)}: {error}") from None
    return _summary(file, adapters, tensors)


def _insert(part: torch.nn.Module, adapter: Adapter, file: Path) -> None:
    """Put LoRA layers into a network or text encoder, with the tensors of a file as their weights.

    Raises:
        Misfit: where the layers do not hold exactly these tensors afterwards.
    """
    ranks = adapter.ranks
    rank, alpha = _commonest(ranks.values()), _commonest([adapter.alpha(layer) for layer in ranks])
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(ranks),
        rank_pattern={f"^{layer}": own for layer, own in ranks.items() if own != rank},
        alpha_pattern={f"^{layer}": own for layer in ranks if (own := adapter.alpha(layer)) != alpha},
        use_rslora=adapter.rslora,
        use_dora=any(name.endswith(MAGNITUDE) for name in adapter.tensors),
        lora_bias=any(name.endswith(BIAS) for name in adapter.tensors),
    )
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each tensor is compared below
            peft.inject_adapter_in_model(config, part, ADAPTER, low_cpu_mem_usage=True, state_dict=adapter.tensors)
            peft.set_peft_model_state_dict(part, adapter.tensors, ADAPTER, low_cpu_mem_usage=True)
    except Exception as error:  # peft has several
        raise Misfit(f"{plain(file)}: {one_line(error)[:200]}") from None
    _check_loaded(_lora_parameters(part), adapter.tensors, file)


def _commonest(values: Any) -> Any:
    return Counter(values).most_common(1)[0][0]


def _lora_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the parameters of a network's LoRA layers, by the names that peft's files give them."""
    return {
        name.replace(f".{ADAPTER}", "").replace(f"{MAGNITUDE}.weight", MAGNITUDE): parameter
        for name, parameter in module.named_parameters()
        if f".{ADAPTER}." in name
    }


def _check_loaded(
    parameters: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, torch.Tensor], file: Path
) -> None:
    """Raise an error unless LoRA parameters and tensors are the same in number, name and value.

    Raises:
        Misfit: naming one that is not.
    """
    for name in sorted({*parameters, *tensors}):
        if name not in parameters or name not in tensors:
            raise Misfit(f"{plain(file)}: {plain(name)} is {'not loaded' if name in tensors else 'missing'}")
        found, given = parameters[name].detach(), tensors[name]
        if found.shape != given.shape or (found.device.type != "meta" and not found.equal(given.to(found))):
            raise Misfit(f"{plain(file)}: {plain(name)} was not loaded as it stands there")


def _summary(file: Path, adapters: Mapping[str, Adapter], tensors: int) -> str:
    modules = " and ".join(f"{len(adapter.ranks)} modules of {part}" for part, adapter in adapters.items())
    ranks = {rank for adapter in adapters.values() for rank in adapter.ranks.values()}
    scales = {scale for adapter in adapters.values() for scale in adapter.scales()}
    said = "" if any(adapter.alphas for adapter in adapters.values()) else " (the file gives no alpha)"
    if aside := " and ".join(part for part in adapters if part in TEXT_ENCODERS):
        said += f"; that of {aside} is never differentiated"
    return f"LoRA {plain(file.name)}: {tensors} tensors in {modules}, rank {_span(ranks)}, scale {_span(scales)}{said}"


def _span(values: set[Any]) -> str:
    return " to ".join(f"{value:g}" for value in dict.fromkeys((min(values), max(values))))


def load_lora_state(module: torch.nn.Module, file: Path) -> None:
    """Replace a network's LoRA weights by those of a checkpoint file.

    Raises:
        AttrbenchError: where the file does not hold exactly them.
    """
    parameters, option = _lora_parameters(module), f"checkpoint {plain(file.name)}"
    try:
        adapters, _ = read_lora(file, {"network": module}, option)
        (adapter,) = adapters.values()
        for layer, alpha in adapter.alphas.items():
            known: Any = module.get_submodule(layer)
            if (trained := getattr(known, "lora_alpha", {}).get(ADAPTER, alpha)) != alpha:
                raise Misfit(f"{plain(file)} gives {layer} alpha {alpha:g}, the LoRA has {trained:g}")
        for name, parameter in parameters.items():
            if name in adapter.tensors and adapter.tensors[name].shape == parameter.shape:
                parameter.data.copy_(adapter.tensors[name])
        _check_loaded(parameters, adapter.tensors, file)
    except Misfit as error:
        raise AttrbenchError(f"{option} does not hold the LoRA of this model: {error}") from None


def add_random_lora(module: Any) -> None:
    """Add LoRA layers of the shape in DMin's experiments to a network, with random initial weights."""
    shape = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), init_lora_weights="gaussian")
    module.add_adapter(shape, adapter_name=ADAPTER)
