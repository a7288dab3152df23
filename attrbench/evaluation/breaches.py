"""Breaches of the contract of tasks that a few items show, told in one line before a run computes anything.

They would not stop a run: a prediction that depends on the batch, or a target that broadcasts, gives rankings like any
other, which mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.contracts.samples import Batch
from attrbench.contracts.task import Items
from attrbench.errors import AttrbenchError, error_line
from attrbench.evaluation.world import TaskWorld
from attrbench.gradients.samples import NoisySamples, Split

LOOSE = 16 * 2.0**-10
"""Relative difference of predictions that a run takes for rounding: TF32, the coarsest of float32, rounds by 2^-10."""
SOURCE = GradientSource(grid=TimestepGrid(kind="random", steps=3))


@dataclass(frozen=True)
class Breach:
    """A breach of the contract of tasks: what was found, and what the author of the task can do about it."""

    found: str
    advice: str


class Look:
    """A look at a model at work: a few noisy items, and what it predicts for them together and for each alone.

    Args:
        denoiser: the model.
        items: the training set.
        count: number of noisy samples; items come again, at other timesteps, where there are fewer.
    """

    def __init__(self, denoiser: Denoiser, items: Items, count: int = 2) -> None:
        self.denoiser = denoiser.forgetful()
        self.count = count
        self._used = min(count, len(items))
        self._samples = NoisySamples(SOURCE, self.denoiser, Split("train", items), self._used)

    @cached_property
    def together(self) -> Batch:
        """Return all samples as one batch."""
        places = torch.arange(self.count)
        return self._batch(0, self._used, places % self._used, places)

    def alone(self, place: int) -> Batch:
        """Return one of the samples as a batch of its own, of an item that is encoded alone."""
        item = place % self._used
        return self._batch(item, item + 1, torch.zeros(1, dtype=torch.int64), torch.tensor([place]))

    def _batch(self, first: int, last: int, items: Tensor, places: Tensor) -> Batch:
        with torch.no_grad():
            encoded = self._samples.encode(first, last)
            return self._samples.batch(first, encoded, items, places % len(self._samples.timesteps))

    def predict(self, batch: Batch) -> Tensor:
        """Return the model's prediction for a batch, without gradients."""
        with torch.no_grad():
            return self.denoiser.predict(batch.noisy, batch.t, batch.conditioning)

    @cached_property
    def predicted(self) -> Tensor:
        """Return the model's prediction for all samples in one batch."""
        return self.predict(self.together)


def refuse_breaches(world: TaskWorld, of_model: bool) -> None:
    """Raise an error where a few items show that a run's task breaks the contract, so that its numbers mean nothing.

    Args:
        world: the open task.
        of_model: whether to look at the model too, which is loaded for it.

    Raises:
        AttrbenchError: says what is wrong, and what to do.
    """
    train = world.items("train")
    breach = items_breach(train, "training set") or items_breach(world.items("query"), "queries")
    if breach is None and of_model and len(train):
        breach = _model_breach(world.opened.denoiser, train)
    if breach is not None:
        where = f"task {world.meta.name}: {breach.found}"
        raise AttrbenchError(f"{where}: {breach.advice} ('attrbench check' tries all that tasks promise)")


def _model_breach(denoiser: Denoiser, items: Items) -> Breach | None:
    try:
        look = Look(denoiser, items)
        return mode_breach(denoiser) or shape_breach(look) or batch_breach(look, tolerance(denoiser))
    except (AttrbenchError, OSError, MemoryError, torch.cuda.OutOfMemoryError):
        return None  # what others than the model's author can mend is told where the run needs the model
    except Exception as error:
        kind = f"{type(denoiser).__module__}.{type(denoiser).__qualname__}"
        return Breach(f"its model ({kind}) raises {error_line(error)} on two training items", "mend it")


def items_breach(items: Items, what: str) -> Breach | None:
    """Return what is wrong with a split's arrays and lists, or None; no image is read.

    Args:
        items: the split.
        what: what to call it.
    """
    images = items.images
    if len(images.shape) != 4 or images.dtype != np.uint8:
        return Breach(
            f"the images of its {what} are {images.dtype} {list(images.shape)}",
            "give uint8 [n, H, W, C] with values from 0 to 255",
        )
    lists: tuple[tuple[str, Sequence[object] | None], ...] = (
        ("groups", items.groups),
        ("prompts", items.prompts),
        ("seeds", items.seeds),
        ("names", items.names or None),
        ("digests", items.digests or None),
    )
    for name, given in lists:
        if given is not None and len(given) != len(images):
            return Breach(
                f"its {what} has {len(images)} images and {len(given)} {name}",
                "give one for each, in the images' order (an empty string for none)",
            )
    return None


def mode_breach(denoiser: Denoiser) -> Breach | None:
    """Return which modules of the network are in train mode, or None for a network in eval mode."""
    training = [name or type(module).__name__ for name, module in denoiser.module.named_modules() if module.training]
    if not training:
        return None
    return Breach(
        f"{len(training)} modules of its network are in train mode, first {training[0]}",
        "dropout draws at random and batch norm mixes the items of a batch there: call module.eval() after loading",
    )


def shape_breach(look: Look) -> Breach | None:
    """Return what of the model's noisy items, targets and predictions has another shape than its latents, or None."""
    expected, batch = [look.count, *look.denoiser.latent_shape], look.together
    for name, tensor in (("noisy", batch.noisy), ("target", batch.target), ("predict", look.predicted)):
        if list(tensor.shape) != expected:
            return Breach(
                f"its model's {name}() gives {list(tensor.shape)} for {look.count} items of latent_shape"
                f" {list(look.denoiser.latent_shape)}",
                f"return {expected}: one value for each entry of the latents, for nothing may broadcast in the loss",
            )
    return None


def batch_breach(look: Look, allowed: float) -> Breach | None:
    """Return what the model gives for an item beside others unlike for the item alone, or None.

    Args:
        look: the items.
        allowed: difference that counts as rounding, relative to the largest entry.
    """
    singles = [look.alone(place) for place in range(look.count)]
    predicted = [look.predict(single) for single in singles]
    pairs: Sequence[tuple[str, Tensor, list[Tensor]]] = (
        ("noisy latents", look.together.noisy, [single.noisy for single in singles]),
        ("target", look.together.target, [single.target for single in singles]),
        ("prediction", look.predicted, predicted),
    )
    for name, together, alone in pairs:
        size = relative_difference(together, torch.cat(alone))
        if size > allowed:
            again = relative_difference(look.predict(singles[0]), predicted[0])
            if again > allowed:
                return random_breach(again)
            return Breach(
                f"an item's {name} beside {look.count - 1} other differs by {size:.1%} from the same item's alone",
                "let encode, noisy, target and predict treat each item by itself, at its own t and with its own"
                " conditioning: no statistic over the batch",
            )
    return None


def random_breach(size: float) -> Breach:
    """Return the breach of a model that predicts something else each time, by this relative difference."""
    return Breach(
        f"its model predicts something else each time for the same input: {size:.1%} of the largest entry",
        "draw nothing in encode and predict; dropout has to be off (module.eval()), in functions too",
    )


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest entry of both; NaN counts as 0."""
    found, expected = found.double().nan_to_num(), expected.double().nan_to_num()
    scale = torch.maximum(found.abs().max(), expected.abs().max())
    return float((found - expected).abs().max() / scale) if scale > 0 else 0.0


def tolerance(denoiser: Denoiser) -> float:
    """Return the relative difference of predictions that counts as rounding in a run, by the weights' precision."""
    kinds = [parameter.dtype for parameter in denoiser.module.parameters() if parameter.is_floating_point()]
    return max([LOOSE, *(16 * torch.finfo(kind).eps for kind in set(kinds))])
