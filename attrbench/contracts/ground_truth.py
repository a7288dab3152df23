"""The contract of a counterfactual: a ranking measured by what a model does that is trained without its top.

A task may have one (`OpenTask.counterfactual`). Methods know nothing of it: they rank, and the task trains again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attrbench.contracts.record import Control, MetricResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Stage = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Shows progress: takes a name and a number of steps; the context gives a function to call after each step."""


@dataclass(frozen=True)
class Effect:
    """What came of training again.

    Attributes:
        metrics: results for the record, the task's main metric among them.
        controls: the main metric where the removed items were chosen by something else than the method.
        facts: numbers for the record: how many items were removed, how often they were retrieved.
    """

    metrics: Sequence[MetricResult]
    controls: Sequence[Control]
    facts: Mapping[str, float]


class Counterfactual(ABC):
    """Measures rankings by training again.

    Attributes:
        depth: how many items of the top of each query it looks at.
        summary: one line for the plan of a run: what is trained, and how often.
    """

    depth: int
    summary: str

    @abstractmethod
    def measure(self, ranked: NDArray[np.int64], seed: int, stage: Stage) -> Effect:
        """Trains without what the ranking names, and says what that changed.

        What is trained is kept below the task's cache, so that the same call resumes after an interruption.

        Args:
            ranked: [m, depth] training ids of all queries, strongest first; -1 where a search found fewer. There may
                be fewer columns than `depth`, where a method gives no more.
            seed: of the intervals.
            stage: where progress is shown.

        Raises:
            AttrbenchError: where the ranking does not name enough items.
        """
