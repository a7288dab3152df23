"""What methods return to the computations that call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Transformed:
    """What `Method.transform` returns.

    Attributes:
        gradients: [T, m, p] what takes the place of the queries' gradients.
        facts: numbers that the record reports, such as a damping or a residual.
        state_bytes: what was built from the training set for it, and is needed for every new query.
        state_seconds: what building that took; the rest of the time is the queries'.
    """

    gradients: Tensor
    facts: Mapping[str, float] = field(default_factory=dict)
    state_bytes: int = 0
    state_seconds: float = 0.0
