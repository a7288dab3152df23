"""Conformance checks of a task's model on a few training items: mode, shapes, batches, timesteps, parameters."""

from __future__ import annotations

import math

import torch

from attrbench.conformance.check_report import Finding, failed, passed
from attrbench.conformance.checked_task import FEW, TaskSubject
from attrbench.conformance.score_comparison import other_random_numbers
from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.errors import Unavailable
from attrbench.evaluation.breaches import (
    LOOSE,
    Look,
    batch_breach,
    mode_breach,
    random_breach,
    relative_difference,
    shape_breach,
    tolerance,
)
from attrbench.gradients.model_outputs import MODEL_OUTPUTS

STRICT = 1e-3
"""Relative difference of float32 predictions that the checks take for rounding."""
GRIDS = (
    TimestepGrid(kind="cubic", steps=5),
    TimestepGrid(kind="uniform", steps=5),
    TimestepGrid(kind="random", steps=5),
    TimestepGrid(kind="single", steps=1),
    TimestepGrid(kind="sampler", steps=2),
    TimestepGrid(kind="sampler", steps=None),
)


def mode(subject: TaskSubject) -> Finding:
    """Check that the network is in eval mode."""
    breach = mode_breach(subject.denoiser)
    if breach is not None:
        return failed("mode", breach.found, breach.advice)
    return passed("mode", f"{sum(1 for _ in subject.denoiser.module.modules())} modules in eval mode")


def shapes(subject: TaskSubject) -> Finding:
    """Check that noisy latents, target and prediction have the shape of the latents, and finite values."""
    check, look = "shapes", subject.look
    breach = shape_breach(look)
    if breach is not None:
        return failed(check, breach.found, breach.advice)
    batch = look.together
    for name, tensor in (("noisy", batch.noisy), ("target", batch.target), ("predict", look.predicted)):
        if not tensor.isfinite().all():
            return failed(
                check,
                f"{name}() gives {int((~tensor.isfinite()).sum())} values that are NaN or infinite",
                "look for divisions by zero at the ends of the noise schedule, and for a range that float16 lacks",
            )
    for name, tensor in batch.conditioning.items():
        if len(tensor) != look.count:
            return failed(
                check,
                f"encode() gives conditioning {name!r} of shape {list(tensor.shape)} for {look.count} items",
                "let each conditioning tensor have one entry for each item, in its first dimension",
            )
    return passed(check, f"noisy, target and predict give {list(batch.noisy.shape)} for {look.count} items, all finite")


def batches(subject: TaskSubject) -> Finding:
    """Check that what the model makes of an item does not depend on the items beside it."""
    breach = batch_breach(subject.look, _strict(subject))
    if breach is not None:
        return failed("batches", breach.found, breach.advice)
    look = subject.look
    alone = torch.cat([look.predict(look.alone(place)) for place in range(look.count)])
    worst = relative_difference(look.predicted, alone)
    return passed("batches", f"predictions of items alone and beside {look.count - 1} others differ by {worst:.0e}")


def _strict(subject: TaskSubject) -> float:
    """Return the relative difference that counts as rounding here: less than in runs, where the weights are float32."""
    allowed = tolerance(subject.denoiser)
    return STRICT if allowed == LOOSE and subject.denoiser.device.type == "cpu" else allowed


def repeats(subject: TaskSubject) -> Finding:
    """Check that the same items give the same prediction again, whatever the global random generators did."""
    worst = 0.0
    for seed in range(2):
        with other_random_numbers(seed):
            again = Look(subject.denoiser, subject.train, FEW).predicted  # encoded anew
        worst = max(worst, relative_difference(again, subject.look.predicted))
    if worst > _strict(subject):
        breach = random_breach(worst)
        return failed("repeats", breach.found, breach.advice)
    return passed("repeats", f"encoding and predicting {FEW} items again changes the prediction by {worst:.0e}")


def timesteps(subject: TaskSubject) -> Finding:
    """Check that every grid gives as many timesteps as it is asked for, all within those of the training."""
    check, denoiser = "timesteps", subject.denoiser
    told: dict[str, str] = {}
    for grid in GRIDS:
        try:
            given = denoiser.timesteps(grid)
        except Unavailable:
            continue  # no sampler that could be run again
        asked = len(denoiser.sampler_timesteps()) if grid.steps is None else grid.steps
        where = f"the grid {grid.kind} of {'all' if grid.steps is None else asked} steps"
        if len(given) != asked:
            return failed(check, f"{where} gives {len(given)} timesteps", f"give {asked}, as grid.steps says")
        wrong = [t for t in given if not (math.isfinite(t) and 0 <= t <= denoiser.training_steps)]
        if wrong:
            return failed(
                check,
                f"{where} gives {wrong[0]:g}, which is not among 0 to training_steps = {denoiser.training_steps}",
                "give timesteps in the network's own units; attrbench.models.timesteps has the grids",
            )
        told[grid.kind] = f"{grid.kind} {max(given):g} to {min(given):g}"
    return passed(check, "; ".join(told.values()))


def parameters(subject: TaskSubject) -> Finding:
    """Check that the attributed parameters are the network's own, can be differentiated, and get a gradient."""
    check, denoiser = "parameters", subject.denoiser
    chosen = denoiser.attributed_parameters("attributed")
    if not chosen or list(chosen) != list(denoiser.attributed_parameters("attributed")):
        return failed(
            check, f"attributed_parameters gives {len(chosen)}, or others each time", "name them in a fixed order"
        )
    own = {id(parameter) for parameter in denoiser.module.parameters()}
    for what, wrong, advice in (
        ("not of denoiser.module", [n for n, p in chosen.items() if id(p) not in own], "take named_parameters() of it"),
        ("frozen", [n for n, p in chosen.items() if not p.requires_grad], "call requires_grad_(True) on them"),
    ):
        if wrong:
            return failed(check, f"{len(wrong)} of {len(chosen)} parameters are {what}, first {wrong[0]}", advice)
    batch = subject.look.alone(0)
    predicted = denoiser.predict(batch.noisy, batch.t, batch.conditioning)
    if not predicted.requires_grad:
        return failed(
            check, "no gradient reaches the parameters", "let predict run without torch.no_grad() and without detach()"
        )
    losses = MODEL_OUTPUTS["loss"](predicted, batch.target)
    found = torch.autograd.grad(losses.sum(), list(chosen.values()), allow_unused=True)
    used = [gradient for gradient in found if gradient is not None]
    if not any(gradient.count_nonzero() for gradient in used):
        return failed(
            check,
            f"the gradients of all {len(chosen)} parameters are zero for a training item",
            "let attributed_parameters name weights that the prediction depends on",
        )
    numbers = sum(parameter.numel() for parameter in chosen.values())
    unused = f", {len(found) - len(used)} of them unused by the prediction" if len(used) < len(found) else ""
    part = f"; {denoiser.adapter_part}" if denoiser.adapter_part else ""
    return passed(check, f"{len(chosen)} with {numbers:,} numbers{unused}; the loss is {losses.item():.3g}{part}")
