"""`ModelConfig` under the name by which tasks import it; it is part of the contracts."""

from __future__ import annotations

from attrbench.contracts.model_config import ModelConfig

__all__ = ["ModelConfig"]
