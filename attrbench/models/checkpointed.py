"""Loading of a model's checkpoints: weights from earlier in training, stored beside the final weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch

from attrbench.contracts.denoiser import LEARNING_RATES, OTHER_SEED, Denoiser
from attrbench.models.model_fingerprint import file_digest
from attrbench.models.weight_files import load_state


class Checkpointed(Denoiser):
    """A denoiser whose weights from earlier in training can be loaded from a folder of checkpoint files.

    Attributes:
        checkpoint_folder: `CHECKPOINTS` beside the trained weights.
    """

    checkpoint_folder: Path

    def _files(self) -> dict[str, Path]:
        return {file.stem: file for file in self.checkpoint_folder.glob("*-*.safetensors")}

    def checkpoints(self) -> tuple[str, ...]:
        """Return the names of the checkpoints, NAME-STEP of the files `NAME-STEP.safetensors`, sorted by step."""
        numbered = [name for name in self._files() if name.rpartition("-")[2].isdecimal()]
        return tuple(sorted(numbered, key=lambda name: int(name.rpartition("-")[2])))

    def has_other_seed(self) -> bool:
        """Return whether the folder holds weights of the same training with another seed."""
        return OTHER_SEED in self._files()

    def learning_rate(self, checkpoint: str) -> float:
        """Return the training's learning rate at a checkpoint, read from `learning-rates.json`.

        Raises:
            UsageError: where it does not say so.
        """
        file = self.checkpoint_folder / LEARNING_RATES
        rates = json.loads(file.read_bytes()) if file.is_file() else {}
        return float(rates[checkpoint]) if checkpoint in rates else super().learning_rate(checkpoint)

    def _load(self, checkpoint: str) -> torch.nn.Module:
        module = copy.deepcopy(self.module)
        load_state(module, self._files()[checkpoint], f"checkpoint {checkpoint}")
        return module

    def _fingerprint_with(self, name: str) -> str:
        own = super()._fingerprint_with(name)
        file = self._files().get(name)
        return own if file is None else f"{own}/{file_digest(file)}"
