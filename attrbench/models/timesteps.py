"""Timestep grids: the timesteps at which gradients are computed, chosen by kind (uniform, cubic, random, ...)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.errors import Unavailable, UsageError

Timestep = TypeVar("Timestep", bound=float)


def _no_sampler() -> Sequence[int]:
    raise Unavailable("this model has no sampling trajectories")


def grid_timesteps(
    grid: TimestepGrid, training_steps: int = 1000, sampler: Callable[[], Sequence[int]] = _no_sampler
) -> tuple[int, ...]:
    """Return the timesteps of a grid for a discrete-time model trained on 0 .. training_steps - 1.

    `cubic` (the released code of DMin, arXiv:2412.08637): idx_k = floor((k / T)^3 * training_steps) for k < T, read
    off the descending list of timesteps. Duplicates, which occur for T >= 20, are kept: they weigh double there too.
    `uniform` (D-TRAK, arXiv:2311.00500): k * (training_steps // T).
    `random`: T seeded draws from all timesteps, with replacement. `single`: `at`, T times.
    `sampler`: T of the timesteps that the sampler visits, evenly spaced among them, in its order; all without a T.

    Args:
        grid: the grid.
        training_steps: how many timesteps the model was trained on.
        sampler: gives the timesteps that the model's sampler visits.

    Raises:
        UsageError: where the model was trained on fewer timesteps than the grid asks for.
        Unavailable: for the grid `sampler`, where the model has none.
    """
    if grid.kind == "sampler":
        return visited_timesteps(grid, sampler())
    steps = _asked_steps(grid)
    if grid.kind == "single":
        if grid.at >= training_steps:
            raise UsageError(f"timestep {grid.at}: the model was trained on 0 to {training_steps - 1}")
        return (grid.at,) * steps
    if grid.kind == "random":
        draw = random.Random(grid.seed)  # noqa: S311
        return tuple(draw.randrange(training_steps) for _ in range(steps))
    _check_steps(steps, training_steps)
    if grid.kind == "cubic":
        return tuple(training_steps - 1 - k**3 * training_steps // steps**3 for k in range(steps))
    return tuple(k * (training_steps // steps) for k in range(steps))


def stable_diffusion_timesteps(
    grid: TimestepGrid, training_steps: int = 1000, sampler: Callable[[], Sequence[int]] = _no_sampler
) -> tuple[int, ...]:
    """Return the timesteps of a grid for Stable Diffusion 1.x, whose `cubic` grid in DMin's code differs.

    There the released code of DMin reads the list of PNDM, which its constructor's `steps_offset` shifts by one and
    which has its second entry twice (N, N-1, N-1, N-2, ..., 1), at the cubic indices of k = 1 .. T instead of
    0 .. T - 1, and subtracts 1 from each. So the grid leaves out the noisiest timestep and ends with t = 0.
    """
    if grid.kind != "cubic":
        return grid_timesteps(grid, training_steps, sampler)
    steps = _asked_steps(grid)
    _check_steps(steps, training_steps)
    indices = [k**3 * training_steps // steps**3 for k in range(1, steps + 1)]
    return tuple(training_steps - index - (index < 2) for index in indices)


def flow_timesteps(
    grid: TimestepGrid, schedule: Sequence[float], sampler: Callable[[], Sequence[float]] = _no_sampler
) -> tuple[float, ...]:
    """Return the timesteps of a grid for a flow-matching model: entries of its training schedule.

    Args:
        grid: the grid.
        schedule: the training timesteps, cleanest first; shifted schedules are dense at the noisy end, and so `uniform`
            and `random` are even in the count, not in the noise.
        sampler: gives the timesteps that the model's sampler visits.
    """
    if grid.kind == "sampler":
        return visited_timesteps(grid, sampler())
    return tuple(schedule[index] for index in grid_timesteps(grid, len(schedule)))


def visited_timesteps(grid: TimestepGrid, visited: Sequence[Timestep]) -> tuple[Timestep, ...]:
    """Return the timesteps of the grid `sampler`: all that the model's sampler visits, or T of them, evenly chosen.

    Raises:
        UsageError: where the sampler takes fewer steps.
    """
    steps = len(visited) if grid.steps is None else grid.steps
    if steps > len(visited):
        raise UsageError(f"{steps} of the sampler's steps are asked for, it takes {len(visited)}: ask for no more")
    return tuple(visited[step] for step in sampler_steps(steps, len(visited)))


def _asked_steps(grid: TimestepGrid) -> int:
    """Return the number of timesteps of a grid that is no sampler's; all of those have one."""
    assert grid.steps is not None
    return grid.steps


def _check_steps(steps: int, training_steps: int) -> None:
    if steps > training_steps:
        raise UsageError(f"timesteps={steps}: the model was trained on {training_steps} timesteps only")


def sampler_steps(steps: int, visited: int) -> tuple[int, ...]:
    """Return the indices of `steps` evenly chosen steps out of the sampler's `visited` steps."""
    return tuple(k * visited // steps for k in range(steps))


def grid_draws(grid: TimestepGrid, timesteps: Sequence[float]) -> tuple[int, ...]:
    """Return for each timestep how often it occurred earlier in the grid, so that repeats get other noise.

    Only `random` and `single` are draws; a duplicate in the other grids is the same point twice.
    """
    if grid.kind not in ("random", "single"):
        return (0,) * len(timesteps)
    seen: Counter[float] = Counter()
    draws = []
    for timestep in timesteps:
        draws.append(seen[timestep])
        seen[timestep] += 1
    return tuple(draws)
