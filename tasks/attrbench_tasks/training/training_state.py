"""The state of a training on disk, with its checksum, from which a training that was cut off goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel
from safetensors import safe_open
from safetensors.torch import save

from attrbench.errors import AttrbenchError
from attrbench.models.late import diffusers
from attrbench.store.artifacts import Artifact
from attrbench.store.checksums import SEAL

Weights = dict[str, torch.Tensor]
Parameters = dict[str, torch.nn.Parameter]

STATE = "training-state"
"""Beginning of the name of a state, which ends in the number of steps."""


def has_state(folder: Path) -> bool:
    """Return whether a training was begun in a folder and not finished, so that its state lies there."""
    return bool(_states(folder))


def drop_states(folder: Path, kept: Artifact | None = None) -> None:
    """Remove the states of a training from its folder, except for `kept`; seals that a kill left alone as well."""
    for name in {path.name.removesuffix(SEAL) for path in folder.glob(f"{STATE}-*")}:
        state = _artifact(folder / name)
        if state != kept:
            state.drop()


def _states(folder: Path) -> list[Artifact]:
    """Return the states in a folder, the latest first."""
    return [_artifact(path) for path in sorted(folder.glob(f"{STATE}-*.safetensors"), reverse=True)]


def _artifact(path: Path) -> Artifact:
    return Artifact(path, "state of a training", "what an unfinished training goes on from", "--out")


@dataclass(frozen=True)
class TrainingState:
    """State of a training in one file, to resume from: weights, their moving average, AdamW's moments, step.

    One safetensors file with its seal; the one before is removed once it is there. accelerate's `save_state` would
    write a folder of several files, some of them pickled, of which a kill can leave half; and it keeps random states,
    which a step here does not depend on.
    """

    recipe: BaseModel
    folder: Path
    parameters: Parameters
    average: diffusers.EMAModel | None
    optimizer: torch.optim.AdamW

    def averaged(self) -> Weights:
        """Return the moving average of the weights by name, or the weights themselves where none is kept.

        They are no copies.
        """
        if self.average is None:
            return {name: value.detach() for name, value in self.parameters.items()}
        return dict(zip(self.parameters, self.average.shadow_params, strict=True))

    def save(self, step: int) -> None:
        """Save weights, moving average and AdamW's moments after `step` steps, replacing the earlier state file."""
        tensors = {} if self.average is None else {f"ema.{name}": value for name, value in self.averaged().items()}
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state[parameter]
            tensors[f"model.{name}"] = parameter
            tensors[f"m1.{name}"], tensors[f"m2.{name}"] = moments["exp_avg"], moments["exp_avg_sq"]
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        kept = _artifact(self.folder / f"{STATE}-{step:08d}.safetensors")
        kept.write_bytes(save(tensors, {"step": str(step), "recipe": self.recipe.model_dump_json()}))
        drop_states(self.folder, kept)

    def restore(self) -> int:
        """Load the latest whole state into network and optimizer, and return its steps done; 0 where there is none.

        Raises:
            AttrbenchError: for a state of another recipe.
        """
        for kept in _states(self.folder):
            if kept.whole() is not None:
                return self._load(kept.path)
            kept.report_damage("training from the start")
        return 0

    def _load(self, path: Path) -> int:
        with safe_open(path, framework="pt") as file, torch.no_grad():
            metadata = file.metadata()
            if type(self.recipe).model_validate_json(metadata["recipe"]) != self.recipe:
                raise AttrbenchError(
                    f"{path} was left by another recipe; delete it or train into another folder (--out)"
                )
            step = int(metadata["step"])
            for name, parameter in self.parameters.items():
                parameter.copy_(file.get_tensor(f"model.{name}"))
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": file.get_tensor(f"m1.{name}").to(parameter.device),
                    "exp_avg_sq": file.get_tensor(f"m2.{name}").to(parameter.device),
                }
            if self.average is not None:
                for name, value in self.averaged().items():
                    value.copy_(file.get_tensor(f"ema.{name}"))
        return step
