"""Weights from earlier in training, in a folder beside the final ones."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch

from attrbench.contracts.denoiser import LEARNING_RATES, Denoiser
from attrbench.files import sha256_of


class Checkpointed(Denoiser):
    """A denoiser with checkpoints on disk.

    Attributes:
        checkpoint_folder: `CHECKPOINTS` beside the trained weights.
    """

    checkpoint_folder: Path

    def _files(self) -> dict[str, Path]:
        return {file.stem: file for file in self.checkpoint_folder.glob("*-*.safetensors")}

    def checkpoints(self) -> tuple[str, ...]:
        """Files `NAME-STEP.safetensors`, by step."""
        numbered = [name for name in self._files() if name.rpartition("-")[2].isdecimal()]
        return tuple(sorted(numbered, key=lambda name: int(name.rpartition("-")[2])))

    def learning_rate(self, checkpoint: str) -> float:
        """As `learning-rates.json` says."""
        file = self.checkpoint_folder / LEARNING_RATES
        rates = json.loads(file.read_bytes()) if file.is_file() else {}
        return float(rates[checkpoint]) if checkpoint in rates else super().learning_rate(checkpoint)

    def _load(self, checkpoint: str) -> torch.nn.Module:
        from safetensors.torch import load_file

        module = copy.deepcopy(self.module)
        module.load_state_dict(load_file(self._files()[checkpoint]))
        return module

    def _fingerprint_of(self, checkpoint: str) -> str:
        file = self._files().get(checkpoint)
        return super()._fingerprint_of(checkpoint) + ("" if file is None else f"/{sha256_of(file)}")
