"""Re-export of `ModelConfig` from the contracts, for tasks."""

from __future__ import annotations

from attrbench.contracts.model_config import ModelConfig

__all__ = ["ModelConfig"]
