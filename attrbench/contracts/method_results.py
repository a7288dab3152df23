"""Results of a method's `transform` and `edit`: changed gradients, facts for the record, and costs of built state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class StateCosts:
    """Base class of the results of `Method.transform` and `edit`: facts for the record, costs of state they built."""

    facts: Mapping[str, float]
    state_bytes: int
    state_seconds: float
    spent_seconds: float | None

    def query_seconds(self, call_seconds: float) -> float:
        """Return the part of a call's seconds that is due to the queries, not to building or loading state."""
        spent = self.state_seconds if self.spent_seconds is None else self.spent_seconds
        return max(0.0, call_seconds - spent)

    def recorded(self) -> dict[str, float]:
        """Return the finite facts, with the bytes and seconds of built state, as a dict to keep beside shards."""
        facts = {name: float(value) for name, value in self.facts.items() if math.isfinite(value)}
        return {**facts, "state_bytes": self.state_bytes, "state_seconds": self.state_seconds}


@dataclass(frozen=True)
class Transformed(StateCosts):
    """The result of `Method.transform`: the query gradients to multiply with, facts, and costs of state it built.

    Attributes:
        gradients: [T, m, p] what takes the place of the queries' gradients.
        facts: numbers that the record reports, such as a damping or a residual.
        state_bytes: what was built from the training set for it, and is needed for every new query.
        state_seconds: what building that took, in this call or in an earlier run.
        spent_seconds: what of this very call went into building or loading it; the rest of the call is the queries'.
            None where all of `state_seconds` was spent in this call.
    """

    gradients: Tensor
    facts: Mapping[str, float] = field(default_factory=dict)
    state_bytes: int = 0
    state_seconds: float = 0.0
    spent_seconds: float | None = None


@dataclass(frozen=True)
class Edited(StateCosts):
    """The result of `Method.edit`: facts and costs for the record; the edit itself is in the model's weights.

    Attributes:
        facts: numbers that the record reports, such as a step size; of the first query, where they differ.
        state_bytes: what was built from the training set for it, and is needed for every new query.
        state_seconds: what building that took, in this call or in an earlier run.
        spent_seconds: as in `Transformed`.
    """

    facts: Mapping[str, float] = field(default_factory=dict)
    state_bytes: int = 0
    state_seconds: float = 0.0
    spent_seconds: float | None = None
