"""Loading of the denoiser that a `ModelConfig` describes, from a local folder or the hub, by its model family."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.model_config import ModelConfig
from attrbench.contracts.model_description import ModelDescription
from attrbench.contracts.model_family import META, Architecture, ModelFamily
from attrbench.errors import AttrbenchError, UsageError
from attrbench.hub import is_local, snapshot
from attrbench.models.model_fingerprint import IGNORED
from attrbench.plugins.registry import registry

log = logging.getLogger(__name__)

INDEX = "model_index.json"


def load_denoiser(config: ModelConfig, device: torch.device) -> Denoiser:
    """Load the model that `config` describes, from a local folder or the hub, as a denoiser on `device`.

    Raises:
        AttrbenchError: one line, where a folder, file, repository or license is missing, or weights do not fit.
        UsageError: where options do not go with the model's family.
    """
    if config.weights == "random":
        family, architecture = _random_family(config)
        return family.load_random(config, architecture, device)
    folder, index = find_pipeline(config)
    family = family_of(index, config.model)
    family.check_options(config)
    return family.load(config, folder, index, device)


def describe_model(config: ModelConfig) -> ModelDescription:
    """Return a model's fingerprint, shapes, parameter sizes and timesteps; no weights are loaded into memory.

    They are exactly those of the denoiser that `load_denoiser` gives.

    Raises:
        AttrbenchError: as `load_denoiser`, as far as configurations and names of files show it.
    """
    if config.weights == "random":
        family, architecture = _random_family(config)
        return ModelDescription(family.load_random(config, architecture, META))
    folder, index = find_pipeline(config)
    family = family_of(index, config.model)
    family.check_options(config)
    return family.describe(config, folder, index)


def find_pipeline(config: ModelConfig) -> tuple[Path, dict[str, Any]]:
    """Return the diffusers pipeline folder of a model, downloaded if necessary, and its `model_index.json`.

    Raises:
        AttrbenchError: one line, where they are neither here nor within reach.
    """
    folder, local = Path(config.model).expanduser(), True
    if not folder.exists():
        if is_local(config.model):
            raise AttrbenchError(f"model={config.model}: there is no such folder")
        folder, local = _snapshot(config, (INDEX,)), False
    index = _read_index(folder, config.model)
    family = None if local else _families().get(str(index.get("_class_name")))
    if family is not None:
        inner = [f"{name}/*" for name in family.components(index)]
        folder = _snapshot(config, (INDEX, "*.json", "diffusion_pytorch_model.safetensors", *inner))
    return folder, index


def family_of(index: Mapping[str, Any], model: object = "") -> ModelFamily:
    """Return the model family that loads the pipeline class named in a `model_index.json`.

    Args:
        index: content of `model_index.json`.
        model: what the message calls the model.

    Raises:
        AttrbenchError: where there is none.
    """
    families, kind = _families(), str(index.get("_class_name"))
    if kind not in families:
        raise AttrbenchError(
            f"model {model} is a {kind}; attrbench and its plugins know {', '.join(sorted(families)) or 'none'}"
            " (docs/how-to/model-families.md says how to add a family)"
        )
    return families[kind]


def own_resolution(folder: Path, index: Mapping[str, Any]) -> int:
    """Return the side in pixels of the images that a pipeline generates by default, from its configuration files.

    Raises:
        AttrbenchError: where they are missing, or no family takes the pipeline.
    """
    return family_of(index, folder).resolution(folder, index)


def components(index: Mapping[str, Any]) -> list[str]:
    """Return the names of a pipeline's components (network, autoencoder, ...) that its model family loads.

    Raises:
        AttrbenchError: where no family takes the pipeline.
    """
    return family_of(index).components(index)


def _families() -> dict[str, ModelFamily]:
    """Return pipeline class name -> model family; a family that can't be imported is logged and left out."""
    families: dict[str, ModelFamily] = {}
    known = registry()
    for name in known.names("model_family"):
        try:
            family = known.model_family(name)
        except AttrbenchError as error:
            log.warning("%s", error)
            continue
        for kind in family.pipelines:
            if kind in families:
                raise AttrbenchError(
                    f"pipelines of class {kind} are taken by the model families {families[kind].name} and {name}:"
                    " uninstall one of the plugins, or leave it out with ATTRBENCH_LOAD_PLUGINS"
                )
            families[kind] = family
    return families


def _random_family(config: ModelConfig) -> tuple[ModelFamily, Architecture]:
    """Return the model family and the published or local architecture for a model with random weights.

    Raises:
        UsageError: where there is none.
    """
    families = _families()
    published = {name: family for family in families.values() for name in family.architectures}
    if config.model in published:
        family = published[config.model]
        return family, family.architectures[config.model]
    folder = Path(config.model).expanduser()
    if not (folder / INDEX).is_file():
        raise UsageError(
            f"model={config.model}: weights=random takes {' or '.join(sorted(published))}, or a local pipeline folder"
            " for its configurations"
        )
    index = _read_index(folder, config.model)
    family = family_of(index, config.model)
    return family, family.architecture(folder, index)


def _read_index(folder: Path, model: str) -> dict[str, Any]:
    file = folder / INDEX
    try:
        index: dict[str, Any] = json.loads(file.read_bytes())
    except OSError:
        raise AttrbenchError(
            f"model={model}: no {INDEX} in {folder}: give a folder as save_pretrained of a pipeline writes it"
        ) from None
    except (ValueError, RecursionError):
        raise AttrbenchError(f"model={model}: {file} is not valid JSON") from None
    return index


def _snapshot(config: ModelConfig, allow: tuple[str, ...]) -> Path:
    return snapshot("model", config.model, config.revision, allow, IGNORED)
