"""Opening of a diffusers pipeline folder, with its weights, or without weights on the device `meta`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from attrbench.contracts.model_config import ModelConfig
from attrbench.errors import AttrbenchError
from attrbench.models.late import diffusers
from attrbench.models.quiet import quiet
from attrbench.models.weight_files import check_files, load_network, loading


def load_pipeline(
    config: ModelConfig,
    folder: Path,
    index: Mapping[str, Any],
    components: Iterable[str],
    device: torch.device,
    may_be_missing: Iterable[str] = (),
) -> Any:
    """Load the diffusers pipeline in a local folder, without network access or pickled weights.

    Its modules lie in main memory; for the device `meta` their weights are not loaded, and they lie there.

    Args:
        config: names the model in errors; gives the precision.
        folder: the pipeline folder.
        index: content of its `model_index.json`; the class must be one of diffusers'.
        components: names of those that are loaded.
        device: for which it is loaded.
        may_be_missing: components that the class takes, and that are None where they are not loaded.

    Raises:
        AttrbenchError: one line, where a component is missing, or a library cannot load it, or weights are not exactly
            those of its configuration.
    """
    names = list(components)
    for name in names:  # transformers makes up a tokenizer where there is none
        if not (folder / name).is_dir():
            raise AttrbenchError(
                f"model={config.model}: {folder} has no folder {name}, which its model_index.json names"
            )
    with quiet():
        kind = getattr(diffusers, str(index["_class_name"]), None)
    if kind is None:
        raise AttrbenchError(f"model={config.model}: diffusers {diffusers.__version__} has no {index['_class_name']}")
    parameters = inspect.signature(kind.__init__).parameters
    given: dict[str, Any] = {name: None for name in may_be_missing if name in parameters and name not in names}
    if "requires_safety_checker" in parameters:
        given["requires_safety_checker"] = False
    dtype = getattr(torch, config.dtype)
    with loading(config.model):
        given |= _networks(config.model, folder, index, names, dtype, device)
        return kind.from_pretrained(
            str(folder), torch_dtype=dtype, local_files_only=True, use_safetensors=True, **given
        )


def _networks(
    model: str, folder: Path, index: Mapping[str, Any], names: Iterable[str], dtype: torch.dtype, device: torch.device
) -> dict[str, torch.nn.Module]:
    """Return a pipeline's networks (not tokenizers or schedulers); for the device `meta` without weights."""
    networks = {}
    for name in names:
        library, class_name = index[name]
        kind = _component_class(library, class_name)
        if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
            continue
        if device.type == "meta":
            check_files(folder / name, model)
            networks[name] = outline(kind, folder / name).to(dtype)
        else:
            networks[name] = load_network(kind, folder / name, model, torch_dtype=dtype)
    return networks


def _component_class(library: str, class_name: str) -> Any:
    """Return the class of a pipeline component that `model_index.json` names by library and class name."""
    try:
        module = importlib.import_module(library)
    except ModuleNotFoundError:
        module = importlib.import_module(f"diffusers.pipelines.{library}")
    return getattr(module, class_name)


def outline(kind: Any, folder: Path) -> torch.nn.Module:
    """Build a diffusers or transformers network on the device `meta`, without weights, from its `config.json`.

    Args:
        kind: its class.
        folder: holds `config.json`.
    """
    with torch.device("meta"):
        if issubclass(kind, diffusers.ConfigMixin):
            network = kind.from_config(kind.load_config(str(folder), local_files_only=True))
        else:
            network = kind(kind.config_class.from_pretrained(str(folder), local_files_only=True))
    module: torch.nn.Module = network
    return module
