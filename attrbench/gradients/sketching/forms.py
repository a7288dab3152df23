"""The forms of sketches by name: how each adds up gradients, what it stores, and what a pass does to layers before.

A new form is a name in `attrbench.contracts.gradient_source.SketchForm` and an entry in `FORMS`; nothing else asks for
a form's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attrbench.contracts.gradient_source import Sketch, SketchForm
from attrbench.gradients.sketching.input_projection import InputProjection
from attrbench.gradients.sketching.reference import DenseSketcher, PermutationSketcher, padded
from attrbench.gradients.sketching.rotation import Sketcher

SEED_BYTES = 8


class SketchAccumulator(Protocol):
    """Protocol of accumulators of sketches of a batch of vectors whose columns are added part by part."""

    def start(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        """Reset the sketches to zero for a batch of `size` vectors."""

    def add(self, offset: int, piece: Tensor) -> None:
        """Add coordinates offset .. offset + w of every vector to the sketches; `piece` is [B, w]."""

    def result(self, length: int) -> Tensor:
        """Return the [B, v] sketches of the vectors that were added since `start`."""


def _seed_only(length: int, total: int) -> int:
    return SEED_BYTES


@dataclass(frozen=True)
class Form:
    """One form of sketch.

    Attributes:
        accumulator: makes an accumulator of sketches from their lengths v, the seed and the length p of the vectors.
        state_bytes: bytes that must be stored, from v and p, so that new queries are sketched as the training set was.
        projects_inputs: whether the vectors are gradients with projected layer inputs (`InputProjection`).
    """

    accumulator: Callable[[Sequence[int], int, int], SketchAccumulator]
    state_bytes: Callable[[int, int], int] = _seed_only
    projects_inputs: bool = False


FORMS: Mapping[SketchForm, Form] = {
    "rotation": Form(Sketcher),
    "factored": Form(Sketcher, projects_inputs=True),
    "permutation": Form(PermutationSketcher, lambda length, total: 5 * padded(total, length)),
    "rademacher": Form(lambda lengths, seed, total: DenseSketcher(lengths, seed, "rademacher")),
    "gaussian": Form(lambda lengths, seed, total: DenseSketcher(lengths, seed, "gaussian")),
}


def sketch_accumulator(form: SketchForm, lengths: Sequence[int], seed: int, total: int) -> SketchAccumulator:
    """Return an accumulator of sketches of kind `form` to all `lengths` v, for vectors of length `total`."""
    return FORMS[form].accumulator(lengths, seed, total)


def state_bytes(form: SketchForm, length: int, total: int) -> int:
    """Return the bytes that must be stored so that a new query can be sketched as the training set was."""
    return FORMS[form].state_bytes(length, total)


def input_projection(sketch: Sketch | None) -> InputProjection | None:
    """Return the projection of layers' inputs that a sketch asks of the gradient pass; None for most sketches."""
    return InputProjection(sketch.seed) if sketch is not None and FORMS[sketch.form].projects_inputs else None
