"""Other weights of a configured model, such as a checkpoint of its training: the configuration that loads them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from attrbench.contracts.denoiser import CHECKPOINTS
from attrbench.contracts.model_config import ModelConfig
from attrbench.errors import AttrbenchError, UsageError
from attrbench.models.loading import INDEX, find_pipeline
from attrbench.models.lora import WEIGHTS as LORA_WEIGHTS
from attrbench.models.lora import find_lora
from attrbench.models.lora_file import lora_digests
from attrbench.models.model_fingerprint import file_digest
from attrbench.models.peft_folder import PEFT_WEIGHTS
from attrbench.models.weight_files import open_weights
from attrbench.text import plain

NETWORKS = ("unet", "transformer")
"""Components that are a pipeline's network, of which a single weights file is taken to be."""
NETWORK_WEIGHTS = "diffusion_pytorch_model.safetensors"


def with_weights(config: ModelConfig, weights: Path) -> ModelConfig:
    """Return the configuration of the same model with other weights, as training scripts leave them.

    A LoRA takes the place of the model's own; so does a whole pipeline. Of a checkpoint folder that holds components of
    the pipeline (`checkpoint-500/unet`), or that is one itself, these are taken, and the others are the model's own: a
    folder of links holds them together until the process ends. The fingerprint of the model that is loaded follows from
    the contents of all files, wherever they lie.

    Args:
        config: the model.
        weights: a folder, or a safetensors file with a LoRA or with a whole network.

    Raises:
        UsageError: one line, where `weights` is none of these.
        AttrbenchError: where the model's own folder is missing, or a file can't be read.
    """
    weights = weights.expanduser().absolute()
    if not weights.exists():
        raise UsageError(f"--checkpoint {plain(weights)}: there is no such file or folder")
    if config.weights == "random":
        raise UsageError("--checkpoint: the task's model has random weights (weights=random)")
    if _is_lora(weights):
        return config.model_copy(update={"lora": str(weights), "lora_revision": None})
    if (weights / INDEX).is_file():
        return config.model_copy(update={"model": str(weights), "revision": None})
    folder, index = find_pipeline(config)
    parts = _file_parts(weights, index) if weights.is_file() else _folder_parts(weights, index)
    if not parts:
        raise UsageError(
            f"--checkpoint {plain(weights)}: no weights for model {plain(config.model)} there: give a safetensors file,"
            f" or a folder with a pipeline ({INDEX}), a LoRA ({LORA_WEIGHTS}) or one of the model's components"
            f" ({', '.join(name for name in NETWORKS if name in index)}/{NETWORK_WEIGHTS})"
        )
    together = _linked(folder.absolute(), tuple(sorted(parts.items())))
    return config.model_copy(update={"model": together.name, "revision": None})


def _is_lora(weights: Path) -> bool:
    """Return whether a folder holds LoRA weights under a usual name, or a file holds tensors of a LoRA."""
    if weights.is_dir():
        return any((weights / name).is_file() for name in (LORA_WEIGHTS, PEFT_WEIGHTS))
    return any("lora" in key for key in open_weights(weights, f"--checkpoint {weights}").keys())  # noqa: SIM118


def _folder_parts(weights: Path, index: Mapping[str, Any]) -> dict[str, Path]:
    """Return component -> folder of a checkpoint: its subfolders with weights, or itself by the class in its config."""
    parts = {name: weights / name for name in index if _has_weights(weights / name)}
    if parts or not _has_weights(weights):
        return parts
    try:
        kind = dict(json.loads((weights / "config.json").read_bytes())).get("_class_name")
    except (OSError, ValueError, TypeError):
        raise AttrbenchError(
            f"--checkpoint {plain(weights)}: it holds weights, but no readable config.json that says of which network"
        ) from None
    return {name: weights for name in NETWORKS if isinstance(index.get(name), list) and index[name][1] == kind}


def _file_parts(weights: Path, index: Mapping[str, Any]) -> dict[str, Path]:
    """Return network -> file, for a weights file that holds no LoRA."""
    return {name: weights for name in NETWORKS if name in index}


def _has_weights(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.safetensors")) and (folder / "config.json").is_file()


@cache
def _linked(folder: Path, parts: tuple[tuple[str, Path], ...]) -> tempfile.TemporaryDirectory[str]:
    """Return a folder of links to a pipeline's files, with some components from elsewhere; kept until the process ends.

    Checkpoints of the model's own training are left out, as they led to other weights.
    """
    together = tempfile.TemporaryDirectory(prefix="attrbench-checkpoint-")
    place, replaced = Path(together.name), dict(parts)
    for entry in folder.iterdir():
        if entry.name not in (*replaced, CHECKPOINTS):
            (place / entry.name).symlink_to(entry)
    for name, source in replaced.items():
        if source.is_dir():
            (place / name).symlink_to(source)
            continue
        own = folder / name if (folder / name).is_dir() else folder
        (place / name).mkdir()
        (place / name / "config.json").symlink_to(own / "config.json")
        (place / name / NETWORK_WEIGHTS).symlink_to(source)
    return together


def adapter_digests(config: ModelConfig) -> dict[str, str]:
    """Return the sha256 of each file of a configured LoRA (weights, peft's configuration); empty without one."""
    if config.lora is None or config.weights == "random":
        return {}
    return lora_digests(find_lora(config), file_digest)
