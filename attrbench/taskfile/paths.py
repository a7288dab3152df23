"""Resolution of the paths in a task file, which are relative to that file, or may be hub ids instead."""

from __future__ import annotations

from pathlib import Path

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.model_config import ModelConfig


def beside(folder: Path, text: str) -> str:
    """Return a path in a task file as absolute, relative to the file's folder, or unchanged if it is a hub id."""
    path = Path(text).expanduser()
    there = (folder / path).absolute()  # so that nothing takes it for a hub id again
    if path.is_absolute() or there.exists() or text.startswith(".") or text.count("/") > 1:
        return str(there)
    if path.parent != Path() and there.parent.is_dir():
        return str(there)
    return text


def beside_data(folder: Path, source: DatasetSource) -> DatasetSource:
    """Return a task file's data set with its path made absolute, unless it is a hub id."""
    return source.model_copy(update={"path": beside(folder, source.path)})


def beside_model(folder: Path, config: ModelConfig) -> ModelConfig:
    """Return a task file's model options with the paths of model and LoRA made absolute, unless hub ids."""
    lora = None if config.lora is None else beside(folder, config.lora)
    return config.model_copy(update={"model": beside(folder, config.model), "lora": lora})
