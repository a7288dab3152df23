"""Reading of safetensors weights: headers without tensors, and networks whole or not at all.

diffusers and transformers draw at random what a file lacks, and pass over what it has too much.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from attrbench.errors import AttrbenchError
from attrbench.models.model_fingerprint import IGNORED
from attrbench.models.quiet import quiet
from attrbench.text import one_line, plain

UNUSED = {"CLIPTextModel": frozenset({"text_projection.weight"})}
"""Tensors that a file may hold beyond its network's, by its class: CLIP's text encoder is often saved with the
projection behind it, which another class of the same weights has and no hidden state passes through."""


@contextmanager
def loading(model: object) -> Iterator[None]:
    """Silence the libraries inside the `with` block, and turn their errors into one line that names the model."""
    try:
        with quiet():
            yield
    except AttrbenchError:
        raise
    except Exception as error:  # diffusers, transformers, tokenizers and safetensors have each their own
        raise AttrbenchError(f"model={plain(model)} can't be loaded: {one_line(error)[:300]}") from None


def open_weights(file: Path, option: str) -> Any:
    """Open a safetensors file and check its header against its length; no tensor is read until it is asked for.

    Args:
        file: the file.
        option: the option that led to it, such as `model=PATH`, for the error's text.

    Raises:
        AttrbenchError: where the file is cut short, of another format, or can't be read.
    """
    try:
        return safe_open(file, "pt")
    except Exception as error:  # safetensors has its own beside OSError
        why = one_line(error).removeprefix("Error while deserializing header: ")[:200]
        raise AttrbenchError(f"{plain(option)}: {plain(file)} is no readable safetensors file: {why}") from None


def check_files(folder: Path, model: object) -> None:
    """Raise an error for a component's folder without weights, or with a safetensors file that can't be read.

    Raises:
        AttrbenchError: one line that names folder or file.
    """
    files = _files(folder)
    if not files:
        raise AttrbenchError(f"model={plain(model)}: no weights (*.safetensors) in {plain(folder)}")
    for file in files:
        open_weights(file, f"model={model}")


def load_network(kind: Any, folder: Path, model: object, **options: Any) -> torch.nn.Module:
    """Load a diffusers or transformers network from safetensors files that hold exactly its tensors.

    Args:
        kind: its class.
        folder: holds `config.json` and the weights.
        model: what errors call the model.
        options: of `from_pretrained`.

    Raises:
        AttrbenchError: one line that names file and tensor, where one is missing, left over, or of another shape.
    """
    check_files(folder, model)
    network, report = kind.from_pretrained(
        str(folder),
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the report has them
        **options,
    )
    _check_report(report, folder, f"model={plain(model)}", kind.__name__)
    module: torch.nn.Module = network
    return module


def load_state(module: torch.nn.Module, file: Path, option: str) -> None:
    """Replace a network's weights by those of a safetensors file that holds exactly its tensors.

    Args:
        module: the network.
        file: the weights.
        option: what led to the file, for errors.

    Raises:
        AttrbenchError: one line that names file and tensor, where one is missing, left over, or of another shape.
    """
    weights = open_weights(file, option)
    state = {key: weights.get_tensor(key) for key in weights.keys()}  # noqa: SIM118
    own = module.state_dict()
    for key in sorted({*state, *own}):
        if key not in state or key not in own:
            raise AttrbenchError(f"{option}: {plain(file)} {'lacks' if key in own else 'has too much'}: {plain(key)}")
        if state[key].shape != own[key].shape:
            shapes = f"shape {list(state[key].shape)}, the network takes {list(own[key].shape)}"
            raise AttrbenchError(f"{option}: {plain(file)}: {plain(key)} has {shapes}")
    module.load_state_dict(state)


def _check_report(report: Any, folder: Path, named: str, kind: str) -> None:
    """Raise an error for what the report of `from_pretrained` says was not loaded as the files have it.

    Raises:
        AttrbenchError: naming a file and a tensor.
    """
    missing = sorted(report["missing_keys"])
    unexpected = sorted(set(report["unexpected_keys"]) - UNUSED.get(kind, frozenset()))
    if missing:
        many = f" ({len(missing)} are missing)" if len(missing) > 1 else ""
        raise AttrbenchError(
            f"{named}: {_file_of(folder, missing)} lacks the tensor {plain(missing[0])} of {kind}{many}"
        )
    if unexpected:
        many = f" ({len(unexpected)} are too many)" if len(unexpected) > 1 else ""
        raise AttrbenchError(
            f"{named}: {_file_of(folder, unexpected)} holds the tensor {plain(unexpected[0])}, which {kind} with this"
            f" config.json has not{many}"
        )
    for key, found, expected in report["mismatched_keys"]:
        raise AttrbenchError(
            f"{named}: {_file_of(folder, [key])}: {plain(key)} has shape {list(found)}, {kind} with this config.json"
            f" takes {list(expected)}"
        )
    for message in report["error_msgs"]:
        raise AttrbenchError(f"{named} can't be loaded: {one_line(message)[:300]}")


def _files(folder: Path) -> list[Path]:
    """Return a component's safetensors files, without variants that are never loaded."""
    files = sorted(folder.glob("*.safetensors"))
    return [file for file in files if not any(fnmatch(file.name, pattern) for pattern in IGNORED)]


def _file_of(folder: Path, keys: Iterable[str]) -> str:
    """Return the file that holds the first of these tensors; the folder where several might."""
    files, first = _files(folder), next(iter(keys))
    holding = [file for file in files if first in open_weights(file, str(folder)).keys()]  # noqa: SIM118
    return plain((holding or (files if len(files) == 1 else [folder]))[0])
