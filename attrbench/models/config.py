"""A re-export of `ModelConfig`, the options that say which model to load and how, for tasks to import."""

from __future__ import annotations

from attrbench.contracts.model_config import ModelConfig

__all__ = ["ModelConfig"]
