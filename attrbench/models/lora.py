"""Loading of LoRA weights in the format of diffusers' `save_lora_weights`, with A and B as separate parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file

from attrbench.contracts.model_config import ModelConfig
from attrbench.errors import AttrbenchError
from attrbench.hub import is_local, snapshot
from attrbench.models.quiet import quiet

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
        path = snapshot("lora", config.lora, config.lora_revision, ("*.safetensors",), ("*/*",))
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise AttrbenchError(f"lora={config.lora}: no {WEIGHTS} there (safetensors files: {names}): name the file")
    return files[0]


def add_lora(pipeline: Any, network: torch.nn.Module, config: ModelConfig, file: Path) -> None:
    """Add the LoRA layers of a weights file to a pipeline's network and load them; on `meta`, without weights.

    Raises:
        AttrbenchError: where they do not fit the network.
    """
    wrong = f"lora={config.lora} does not fit model {config.model}"
    try:
        with safe_open(file, "pt") as weights:
            pairs = sum(name.endswith("lora_A.weight") for name in weights.keys())  # noqa: SIM118
    except Exception:  # safetensors has its own error
        raise AttrbenchError(f"lora={config.lora}: {file.name} is no safetensors file") from None
    try:
        with quiet():
            pipeline.load_lora_weights(
                str(file.parent),
                weight_name=file.name,
                adapter_name=ADAPTER,
                local_files_only=True,
                use_safetensors=True,
            )
    except Exception as error:  # each of diffusers and peft has several
        raise AttrbenchError(f"{wrong}: {' '.join(str(error).split())[:200]}") from None
    loaded = sum("lora_A" in name for part in _parts(pipeline) for name, _ in part.named_parameters())
    if not any("lora" in name for name, _ in network.named_parameters()) or loaded < pairs:
        raise AttrbenchError(
            f"{wrong}: {loaded} of {pairs} pairs of matrices found their layer; weights are expected as"
            f" {type(pipeline).__name__}.save_lora_weights writes them"
        )


def _parts(pipeline: Any) -> list[torch.nn.Module]:
    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


def load_lora_state(module: torch.nn.Module, file: Path) -> None:
    """Replace a network's LoRA weights by those of a checkpoint file.

    Raises:
        AttrbenchError: where the file does not hold all of them.
    """
    state = {}
    for name, value in load_file(file).items():
        part, _, inner = name.partition(".")
        if part in ("unet", "transformer"):
            state[inner.replace(".weight", f".{ADAPTER}.weight")] = value
    missing, unexpected = module.load_state_dict(state, strict=False)
    if unexpected or any("lora" in name for name in missing):
        raise AttrbenchError(f"checkpoint {file} does not hold the LoRA of this model")


def add_random_lora(module: Any) -> None:
    """Add LoRA layers of the shape in DMin's experiments to a network, with random initial weights."""
    shape = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), init_lora_weights="gaussian")
    module.add_adapter(shape, adapter_name=ADAPTER)
