"""Paths in a task file are relative to it; what is no path there may be a hub id."""

from __future__ import annotations

from pathlib import Path

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.model_config import ModelConfig


def beside(folder: Path, text: str) -> str:
    """The path that `text` means in a file of `folder`, or `text` itself where that can only be a hub id."""
    path = Path(text).expanduser()
    there = (folder / path).absolute()  # so that nothing takes it for a hub id again
    if path.is_absolute() or there.exists() or text.startswith(".") or text.count("/") > 1:
        return str(there)
    if path.parent != Path() and there.parent.is_dir():
        return str(there)
    return text


def beside_data(folder: Path, source: DatasetSource) -> DatasetSource:
    """The source with its path made out."""
    return source.model_copy(update={"path": beside(folder, source.path)})


def beside_model(folder: Path, source: ModelConfig) -> ModelConfig:
    """The source with its paths made out."""
    lora = None if source.lora is None else beside(folder, source.lora)
    return source.model_copy(update={"model": beside(folder, source.model), "lora": lora})
