"""The ground truth `left-out-color`: does a method name the color without which the model loses most?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from attrbench.contracts.ground_truth import Effect, GroundTruth, OpenGroundTruth, Stage, TruthSetting
from attrbench.contracts.metric import Outcome
from attrbench.contracts.options import Options
from attrbench.contracts.record import MetricResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TrainedWithoutGroups(ABC):
    """An open task that can say what a model trained without one group loses; listed beside `OpenTask`."""

    @abstractmethod
    def losses_without(self, group: str | None) -> NDArray[np.float64]:
        """Return the loss of every query, [m], under a model trained without a group; None: trained on all."""


class LeftOutColor(GroundTruth[Any]):
    """Leaves each group out once: the model is trained again without it, and the losses of the queries rise."""

    name = "left-out-color"
    summary = "whether the group of the largest score is the one whose removal raises the query's loss most"

    class Options(Options):
        """Options of `left-out-color`."""

        by: Literal["mean", "max"] = "mean"
        """How the scores of a group's items become one."""

    def open(self, setting: TruthSetting) -> OpenLeftOutColor | None:
        """Apply to tasks that can be trained without a group."""
        opened = setting.opened
        if not isinstance(opened, TrainedWithoutGroups):
            return None
        groups = sorted(set(opened.train.groups))
        return OpenLeftOutColor(opened, groups, opened.train.groups, self.options.by)


class OpenLeftOutColor(OpenGroundTruth):
    """The trainings of one task."""

    needs_scores = True

    def __init__(self, opened: TrainedWithoutGroups, groups: list[str], of_item: Any, by: str) -> None:
        self._opened, self._groups, self._of_item, self._by = opened, groups, of_item, by
        self.summary = f"{len(groups) + 1} models, trained in closed form"

    def measure(self, outcome: Outcome, seed: int, stage: Stage) -> Effect:
        """Compare, for each query, the group that matters most with the one that the method scores highest."""
        import numpy as np

        from attrbench.metrics.intervals import mean_interval

        if outcome.scores is None:
            return Effect(notes=[f"no {LeftOutColor.name}: it needs the scores of all items"])
        with stage("leaving colors out", len(self._groups)) as advance:
            whole, rises = self._opened.losses_without(None), []
            for group in self._groups:
                rises.append(self._opened.losses_without(group) - whole)
                advance()
        reduce = np.mean if self._by == "mean" else np.max
        of_item = np.array(self._of_item)
        scores = [reduce(outcome.scores[:, of_item == group], axis=1) for group in self._groups]
        right = (np.argmax(scores, axis=0) == np.argmax(rises, axis=0)).astype(np.float64)
        low, high = mean_interval(right, seed) or (None, None)
        result = MetricResult(
            metric=f"{LeftOutColor.name}-top1",
            k=None,
            value=float(right.mean()),
            low=low,
            high=high,
            ceiling=1.0,
            random=1 / len(self._groups),
            per_query=right.tolist(),
            higher_is_better=True,
        )
        return Effect([result], facts={"mean_rise": float(np.max(rises, axis=0).mean())})
