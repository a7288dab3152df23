"""The contract of a ground truth: what models say that were trained again, without some of the items.

A method knows nothing of it. It scores and ranks; the ground truth names the trainings that the answer rests on, which
are jobs, and compares what came of them with the method's scores or ranking.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from attrbench.contracts.metric import Outcome
from attrbench.contracts.options import Options
from attrbench.contracts.record import Control, MetricResult
from attrbench.contracts.task import OpenTask, Task, Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attrbench.contracts.denoiser import Denoiser

OptionsT = TypeVar("OptionsT", bound=Options)
Stage = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Shows progress: takes a name and a number of steps; the context gives a function to call after each step."""


class Measurement(ABC):
    """A measurement that is kept of a retrained model (pictures, losses, ...); frozen and picklable."""

    @abstractmethod
    def identity(self, opened: OpenTask) -> object:
        """Return everything that decides the numbers besides the retrained model, as JSON can hold it.

        Args:
            opened: the task, some of whose parts may decide them, such as its queries.
        """

    @abstractmethod
    def measure(self, denoiser: Denoiser, opened: OpenTask) -> Mapping[str, NDArray[Any]]:
        """Return the arrays to keep, by name.

        Args:
            denoiser: the retrained model.
            opened: the task, with its training set and its queries.
        """


@dataclass(frozen=True)
class TrainingJob:
    """One model to train and to measure, as a value that any process can carry out (`ground_truth.retraining`).

    Attributes:
        task: the task, which is also `Trainable`; light until it is opened.
        subset: sorted indices of the training items that the model sees; None for all of them.
        seed: of the training. With no subset and no seed the model is the task's own, and nothing is trained.
        measurement: what is kept of the model.
        path: the file in which that is kept.
        workspace: the cache, and the device on which the model is trained.
        wait: whether to wait where another process is at the same job, and then do what it did not.
    """

    task: Task[Any]
    subset: tuple[int, ...] | None
    seed: int | None
    measurement: Measurement
    path: Path
    workspace: Workspace
    wait: bool = False

    @property
    def title(self) -> str:
        """Return what it does, in words."""
        items = "all items" if self.subset is None else f"{len(self.subset)} items"
        return f"a model of {self.task.meta.name} trained on {items} with seed {self.seed}"


@dataclass(frozen=True)
class Effect:
    """The results of a ground truth for one method: metrics, controls, facts and notes.

    Attributes:
        metrics: results for the record. A task whose `main_metric` is among them is ranked by it.
        controls: one of the metrics where the items were chosen by something else than the method.
        facts: numbers for the record, such as how many items were removed.
        notes: what a reader must know, such as why there is no result.
    """

    metrics: Sequence[MetricResult] = ()
    controls: Sequence[Control] = ()
    facts: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class TruthSetting:
    """The open task that a ground truth is asked for.

    Attributes:
        task: the task as it was requested.
        opened: the same task, open.
        workspace: where files may be kept, and on what is computed.
    """

    task: Task[Any]
    opened: OpenTask
    workspace: Workspace


class OpenGroundTruth(ABC):
    """A ground truth of one open task.

    Attributes:
        summary: one line for the plan of a run: what is trained, and how often, or which models are there.
        depth: how many items of the top of each query it looks at; 0 where it does not look at rankings.
        needs_scores: whether it looks at the scores of all items. A method that gives only its top has none, and the
            outcome's `scores` are None; `measure` then says so in a note.
    """

    summary: str
    depth: int = 0
    needs_scores: bool = False

    def jobs(self, outcome: Outcome) -> Sequence[TrainingJob]:
        """Return the trainings that `measure` will read, whether they are done or not; the run sees to the others.

        Raises:
            AttrbenchError: where the outcome names nothing that could be measured.
        """
        return ()

    @abstractmethod
    def measure(self, outcome: Outcome, seed: int, stage: Stage) -> Effect:
        """Return what the ground truth says of a method, when all jobs are done.

        Args:
            outcome: rankings ([m, depth] or deeper; fewer columns where the method gives no more; -1 where a search
                found fewer), scores ([m, n], or None) and groups of the queries.
            seed: of intervals and of what is drawn.
            stage: where progress is shown.

        Raises:
            AttrbenchError: where the outcome can't be measured.
        """


class GroundTruth(ABC, Generic[OptionsT]):
    """A ground truth as it is registered; light until `open` is called.

    Attributes:
        name: what `--ground-truth` takes, followed by options: `leave-k-out:k=10`.
        summary: one line for `attrbench list`.
        Options: its options.
        by_default: whether it is measured in every run on a task that it applies to, or only where it is named.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Options: type[OptionsT]
    by_default: ClassVar[bool] = True

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def open(self, setting: TruthSetting) -> OpenGroundTruth | None:
        """Return the ground truth of an open task; None where it does not apply to this task.

        It asks the task for what it can do (`Trainable`, shipped losses, ...), never for its name.

        Raises:
            Unavailable: where it would apply and something is missing; the run goes on without it and says why.
        """

    def state(self, task: Task[Any], cache: Path) -> object:
        """Return what decides the results and lies in files, without opening the task; None where nothing does.

        A record that was made with another state is not taken for an answer.

        Args:
            task: the task.
            cache: the run's cache folder.
        """
        return None


class ShipsSubsetLosses(ABC):
    """A task that ships the losses of its subset models, listed beside `Task` among the bases of its class."""

    @property
    @abstractmethod
    def subset_losses(self) -> Path:
        """The file, as `attrbench ground-truth build` writes it; it need not be there."""
