"""Options and scorer for sums of scores over training checkpoints: TracInCP (Pruthi et al. 2020, arXiv 2002.08484)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.method import ExhaustiveScorer, StateSize


class CheckpointOptions(BaseModel):
    """Options of methods that sum scores over training checkpoints: how many, and the weight of each."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    checkpoints: int = Field(4, ge=1, le=1000)
    """Number of checkpoints, evenly spaced through training, the final weights among them."""
    weights: Literal["mean", "learning-rate"] = "mean"
    """Weight of each checkpoint. `mean`: all the same, as in D-TRAK's code; `learning-rate`: its rate, as TracIn."""

    def names(self) -> list[str]:
        """Return the names of the checkpoints for `Denoiser.at`: `1/4`, `2/4`, `3/4`, `final` for four.

        Features at `final` are shared with methods that use the final weights alone.
        """
        return [f"{k}/{self.checkpoints}" for k in range(1, self.checkpoints)] + ["final"]

    def factors(self, denoiser: Denoiser) -> list[float]:
        """Return each checkpoint's weight in the sum: one over their number, or its learning rate.

        Raises:
            UsageError: where learning rates are asked for and not known.
        """
        if self.weights == "mean":
            return [1 / self.checkpoints] * self.checkpoints
        return [denoiser.learning_rate(denoiser.resolve(name)) for name in self.names()]


class SummedScorer(ExhaustiveScorer):
    """Scorer that adds up weighted scores of one scorer per training checkpoint, as TracIn does."""

    def __init__(self, scorers: Sequence[ExhaustiveScorer], factors: Sequence[float]) -> None:
        self._scorers = scorers
        self._factors = factors

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] scores of n training items for m queries, as a weighted sum over checkpoints."""
        parts = zip(self._scorers, self._factors, strict=True)
        total: NDArray[np.float32] = reduce(
            lambda total, part: total + part, (scorer.scores(query) * factor for scorer, factor in parts)
        )
        return total

    def size(self) -> StateSize:
        """Return the bytes to keep for new queries, added up over the scorers of all checkpoints."""
        sizes = [scorer.size() for scorer in self._scorers]
        kept = [size.rows_if_kept for size in sizes if size.rows_if_kept is not None]
        return StateSize(
            rows=sum(size.rows for size in sizes),
            shared=sum(size.shared for size in sizes),
            index=sum(size.index for size in sizes),
            rows_if_kept=sum(kept) if kept else None,
        )
