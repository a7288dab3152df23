"""Conformance checks of the pictures that a task's model draws: by prompt and seed alone, along a known trajectory."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from attrbench.conformance.check_report import Finding, failed, passed, skipped
from attrbench.conformance.checked_task import TaskSubject
from attrbench.conformance.score_comparison import other_random_numbers
from attrbench.errors import Unavailable

SAME = 0.25
"""Difference of two pictures that are the same, relative to that of another seed's: samplers amplify rounding, those of
untrained networks most."""
LEAST = 2.0
"""Mean difference of pixels, of 255, that is none in any case."""
Pictures = NDArray[np.uint8]


def generate(subject: TaskSubject) -> Finding:
    """Check that a picture is a function of prompt and seed, and that queries with seeds are such pictures."""
    check, denoiser = "generate", subject.denoiser
    prompt, seed = _first(subject)
    pair = denoiser.generate([prompt, prompt], [seed, seed + 1])
    expected = [2, *denoiser.image_shape]
    if pair.dtype != np.uint8 or list(pair.shape) != expected:
        return failed(check, f"it gives {pair.dtype} {list(pair.shape)} for 2 seeds", f"return uint8 {expected}")
    if (other := _distance(pair[0], pair[1])) == 0:
        return failed(check, f"seeds {seed} and {seed + 1} give the same picture", "draw the noise from the seed")
    allowed = max(LEAST, SAME * other)
    with other_random_numbers(1):
        alone = denoiser.generate([prompt], [seed + 1])  # the second, whose noise must not be that of a batch
    if (apart := _distance(alone[0], pair[1])) > allowed:
        with other_random_numbers(2):
            again = _distance(denoiser.generate([prompt], [seed + 1])[0], alone[0])
        why = "drawn again" if again > allowed else "drawn beside another"
        return failed(
            check,
            f"a picture of one prompt and seed, {why}, differs by {max(apart, again):.0f} of 255 a pixel, that of"
            f" another seed by {other:.0f}",
            "draw each picture's noise from its own seed (attrbench.models.noise.gaussian), and nothing else",
        )
    told = (
        f"alone and beside another a picture differs by {apart:.2g} of 255 a pixel, from another seed's by {other:.0f}"
    )
    if subject.queries.seeds is None:
        return passed(check, told)
    apart = _distance(pair[0], subject.queries.images[0])
    if apart > allowed:
        return failed(
            check,
            f"query 0 is not the picture that generate draws of its seed {seed}: {apart:.0f} of 255 a pixel apart,"
            f" that of another seed {other:.0f}",
            "give the seeds that the queries were drawn with, in their order; or leave seeds out",
        )
    return passed(check, f"{told}, query 0 from the picture of its seed by {apart:.2g}")


def trajectory(subject: TaskSubject) -> Finding:
    """Check that the sampler's steps lie within the training's, and that a picture's trajectory has one entry each."""
    check, denoiser = "trajectory", subject.denoiser
    prompt, seed = _first(subject)
    try:
        visited = denoiser.sampler_timesteps()
        clean = denoiser.trajectory([prompt], [seed])
    except Unavailable as error:
        return skipped(check, str(error))
    wrong = [t for t in visited if not (math.isfinite(t) and 0 <= t <= denoiser.training_steps)]
    if wrong:
        return failed(
            check,
            f"the sampler visits timestep {wrong[0]:g}, which is not among 0 to {denoiser.training_steps}",
            "give sampler_timesteps in the network's own units",
        )
    expected = [1, len(visited), *denoiser.latent_shape]
    if list(clean.shape) != expected or not clean.isfinite().all():
        return failed(
            check,
            f"trajectory gives {list(clean.shape)} for one picture and {len(visited)} steps, or values not finite",
            f"return {expected}: the estimate of the clean latents at each of sampler_timesteps",
        )
    return passed(check, f"{len(visited)} steps from timestep {visited[0]:g} to {visited[-1]:g}")


def _first(subject: TaskSubject) -> tuple[str, int]:
    """Return prompt and seed of the first query; seed 0 where queries have none."""
    queries = subject.queries
    return queries.prompts[0], 0 if queries.seeds is None else int(queries.seeds[0])


def _distance(one: Pictures, other: Pictures) -> float:
    """Return the mean absolute difference of two pictures' pixels, of 255."""
    return float(np.abs(one.astype(np.float64) - other).mean())
