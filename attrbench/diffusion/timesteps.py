"""Timestep grids, as explicit lists of training timesteps."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from attrbench.errors import Unavailable, UsageError
from attrbench.features import TimestepGrid


def _no_sampler() -> Sequence[int]:
    raise Unavailable("this model has no sampling trajectories")


def grid_timesteps(
    grid: TimestepGrid, training_steps: int = 1000, sampler: Callable[[], Sequence[int]] = _no_sampler
) -> tuple[int, ...]:
    """The timesteps of `grid` for a model trained on timesteps 0 .. training_steps - 1.

    `cubic` (DMin's released code, methods-spec 6.3): idx_k = floor((k / T)^3 * training_steps) for k < T, read off
    the descending list of timesteps. Duplicates, which occur for T >= 20, are kept: they weigh double there too.
    `uniform` (D-TRAK): k * (training_steps // T).
    `random`: T seeded draws from all timesteps, with replacement. `single`: `at`, T times.
    `sampler`: T of the timesteps that the sampler visits, evenly spaced among them, in its order.

    Args:
        grid: the grid.
        training_steps: how many timesteps the model was trained on.
        sampler: gives the timesteps that the model's sampler visits.
    """
    steps = grid.steps
    if grid.kind == "sampler":
        visited = sampler()
        if steps > len(visited):
            raise UsageError(f"{steps} of the sampler's steps are asked for, it takes {len(visited)}")
        return tuple(visited[step] for step in sampler_steps(steps, len(visited)))
    if grid.kind == "single":
        if grid.at >= training_steps:
            raise UsageError(f"timestep {grid.at}: the model was trained on 0 to {training_steps - 1}")
        return (grid.at,) * steps
    if grid.kind == "random":
        draw = random.Random(grid.seed)  # noqa: S311
        return tuple(draw.randrange(training_steps) for _ in range(steps))
    if steps > training_steps:
        raise UsageError(f"timesteps={steps}: the model was trained on {training_steps} timesteps only")
    if grid.kind == "cubic":
        return tuple(training_steps - 1 - k**3 * training_steps // steps**3 for k in range(steps))
    return tuple(k * (training_steps // steps) for k in range(steps))


def sampler_steps(steps: int, visited: int) -> tuple[int, ...]:
    """Which `steps` of the sampler's `visited` steps the grid `sampler` takes."""
    return tuple(k * visited // steps for k in range(steps))


def grid_draws(grid: TimestepGrid, timesteps: Sequence[int]) -> tuple[int, ...]:
    """How often each timestep occurred before its place in the grid: which draw of its noise it takes.

    Only `random` and `single` are draws; a duplicate in the other grids is the same point twice.
    """
    if grid.kind not in ("random", "single"):
        return (0,) * len(timesteps)
    seen: Counter[int] = Counter()
    draws = []
    for timestep in timesteps:
        draws.append(seen[timestep])
        seen[timestep] += 1
    return tuple(draws)
