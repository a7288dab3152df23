"""The folder that peft's own `save_pretrained` writes: LoRA weights, and a configuration that says alpha."""

from __future__ import annotations

from pathlib import Path

PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def peft_config(weights: str | Path | None) -> Path | None:
    """Return the configuration beside peft's weights file; None for files of another name, or where there is none."""
    if weights is None or Path(weights).name != PEFT_WEIGHTS:
        return None
    config = Path(weights).expanduser().with_name(PEFT_CONFIG)
    return config if config.is_file() else None
