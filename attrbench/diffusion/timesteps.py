"""Timestep grids, as explicit lists of training timesteps."""

from __future__ import annotations

from attrbench.errors import UsageError
from attrbench.features import TimestepGrid


def grid_timesteps(grid: TimestepGrid, training_steps: int = 1000) -> tuple[int, ...]:
    """The timesteps of `grid` for a model trained on timesteps 0 .. training_steps - 1.

    `cubic` (DMin's released code, methods-spec 6.3): idx_k = floor((k / T)^3 * training_steps) for k < T, read off
    the descending list of timesteps. Duplicates, which occur for T >= 20, are kept: they weigh double there too.
    `uniform` (D-TRAK): k * (training_steps // T).
    """
    steps = grid.steps
    if steps > training_steps:
        raise UsageError(f"timesteps={steps}: the model was trained on {training_steps} timesteps only")
    if grid.kind == "cubic":
        return tuple(training_steps - 1 - k**3 * training_steps // steps**3 for k in range(steps))
    return tuple(k * (training_steps // steps) for k in range(steps))
