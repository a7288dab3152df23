"""The contract of a metric: from a method's rankings and the items' groups or scores to one number for each query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CUTOFFS = (5, 10, 50, 100)
"""The k at which metrics cut rankings (DMin, section 4.1)."""
MAX_DEPTH = max(CUTOFFS)


@dataclass(frozen=True)
class Outcome:
    """The rankings and scores that a method gave for a task's queries, with the relevant items, as metrics read them.

    Attributes:
        ranked: [m, depth] training ids, strongest first, -1 where a search found fewer.
        relevant: [m, n] bool, whether a training item shares the query's group; None for tasks without groups.
        scores: [m, n] scores of all items, or None for methods that give only the top.
        exact_ranked: [m, depth] the exhaustive ranking over the same rows, for approximate searches; else None.
    """

    ranked: NDArray[np.int64]
    relevant: NDArray[np.bool_] | None
    scores: NDArray[np.float32] | None = None
    exact_ranked: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class PerQuery:
    """The values of one metric at one cut-off k for all m queries, with their best possible and random values.

    Attributes:
        values: [m].
        ceiling: [m] the best value any ranking could reach, where that is not 1.
        expected: [m] the expectation under a uniformly random ranking, where it has a closed form.
        k: the cut-off, or None.
    """

    values: NDArray[np.float64]
    ceiling: NDArray[np.float64] | None = None
    expected: NDArray[np.float64] | None = None
    k: int | None = None


class Metric(ABC):
    """Base class of quality metrics of rankings; records and leaderboards show `name`, then @k for a cut-off."""

    name: ClassVar[str]
    summary: ClassVar[str]
    higher_is_better: ClassVar[bool] = True

    @abstractmethod
    def compute(self, outcome: Outcome, cutoffs: Sequence[int]) -> list[PerQuery]:
        """Return the metric's values per query for each cut-off k that applies; empty if its inputs are missing."""
