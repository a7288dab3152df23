"""Resolve the paths in a task file, which are relative to the file, and tell them from hub ids."""

from __future__ import annotations

from pathlib import Path

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.model_config import ModelConfig


def beside(folder: Path, text: str) -> str:
    """Return the absolute path that `text` means in a file in `folder`, or `text` itself if it is a hub id."""
    path = Path(text).expanduser()
    there = (folder / path).absolute()  # so that nothing takes it for a hub id again
    if path.is_absolute() or there.exists() or text.startswith(".") or text.count("/") > 1:
        return str(there)
    if path.parent != Path() and there.parent.is_dir():
        return str(there)
    return text


def beside_data(folder: Path, source: DatasetSource) -> DatasetSource:
    """Return the data set source with an absolute path, unless it is a hub id."""
    return source.model_copy(update={"path": beside(folder, source.path)})


def beside_model(folder: Path, config: ModelConfig) -> ModelConfig:
    """Return the model config with absolute paths, unless they are hub ids."""
    lora = None if config.lora is None else beside(folder, config.lora)
    return config.model_copy(update={"model": beside(folder, config.model), "lora": lora})
