"""The contract of a ground truth, which judges methods by models retrained without some of the training items.

A method knows nothing of it. It scores and ranks; the ground truth names the trainings that the answer rests on, which
are jobs, and compares what came of them with the method's scores or ranking.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from attrbench.contracts.metric import Outcome
from attrbench.contracts.options import Options
from attrbench.contracts.record import Control, MetricResult
from attrbench.contracts.task import OpenTask, Task, Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attrbench.contracts.denoiser import Denoiser

OptionsT = TypeVar("OptionsT", bound=Options)
Design = Literal["subsets", "groups"]
"""The models of a bank: trained on random subsets of the items, or without one group of items each."""
RETRAINED = "retrained"
"""Folder of the cache in which measurements of retrained models lie."""
Stage = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Shows progress: takes a name and a number of steps; the context gives a function to call after each step."""


class Measurement(ABC):
    """Base class of measurements of a retrained model that are kept (pictures, losses, ...); frozen and picklable."""

    @abstractmethod
    def identity(self, opened: OpenTask) -> object:
        """Return everything that decides the measured numbers besides the retrained model, as JSON can hold it.

        Args:
            opened: the task, some of whose parts may decide them, such as its queries.
        """

    @abstractmethod
    def measure(self, denoiser: Denoiser, opened: OpenTask) -> Mapping[str, NDArray[Any]]:
        """Return the measured arrays of a retrained model by name, such as its pictures or losses.

        Args:
            denoiser: the retrained model.
            opened: the task, with its training set and its queries.
        """


@dataclass(frozen=True)
class PictureFeatures:
    """An encoder of pictures, such as a classifier's last layer, by which two pictures of a model are compared.

    Attributes:
        features: maps [n, H, W, C] uint8 pictures to [n, d] numbers.
        fingerprint: hash of all that decides them.
    """

    features: Callable[[NDArray[Any]], NDArray[Any]]
    fingerprint: str


class ComparesPictures(ABC):
    """Mixin of loaded tasks with an encoder of pictures, by which ground truths say how far a picture has moved."""

    @property
    @abstractmethod
    def picture_features(self) -> PictureFeatures:
        """Return the encoder of the task's pictures."""


@dataclass(frozen=True)
class TrainingJob:
    """A job to train one model on a subset of items and measure it, for any process (`ground_truth.retraining`).

    Attributes:
        task: the task, which is also `Trainable`; light until it is opened.
        subset: sorted indices of the training items that the model sees; None for all of them.
        seed: of the training. With no subset and no seed the model is the task's own, and nothing is trained.
        measurement: what is kept of the model.
        path: the file in which that is kept.
        weights: the folder of the trained weights, the same for every measurement of the model.
        keep_weights: whether they stay once they are measured, for other measurements.
        workspace: the cache, and the device on which the model is trained.
        wait: whether to wait where another process is at the same job, and then do what it did not.
        leases: whether jobs run on several machines, which lease what they train.
    """

    task: Task[Any]
    subset: tuple[int, ...] | None
    seed: int | None
    measurement: Measurement
    path: Path
    weights: Path
    workspace: Workspace
    keep_weights: bool = False
    wait: bool = False
    leases: bool = False

    @property
    def title(self) -> str:
        """Return a phrase for messages: which task's model is trained, on how many items and with which seed."""
        items = "all items" if self.subset is None else f"{len(self.subset)} items"
        return f"a model of {self.task.meta.name} trained on {items} with seed {self.seed}"


@dataclass(frozen=True)
class Effect:
    """The results of one ground truth for one method's record: metrics, controls, facts and notes.

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
    """The loaded task on which a ground truth is opened, with the cache folder and device for its models.

    Attributes:
        task: the task as it was requested.
        opened: the same task, open.
        workspace: where files may be kept, and on what is computed.
    """

    task: Task[Any]
    opened: OpenTask
    workspace: Workspace


class OpenGroundTruth(ABC):
    """A ground truth opened on one loaded task: lists models to train and compares them with a method's results.

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
        """Return the training jobs whose models `measure` reads, finished ones included; the run does the others.

        Raises:
            AttrbenchError: where the outcome names nothing that could be measured.
        """
        return ()

    @abstractmethod
    def measure(self, outcome: Outcome, seed: int, stage: Stage) -> Effect:
        """Return the metrics of a method's ranking or scores against the trained models, when all jobs are done.

        Args:
            outcome: rankings ([m, depth] or deeper; fewer columns where the method gives no more; -1 where a search
                found fewer), scores ([m, n], or None) and groups of the queries.
            seed: of intervals and of what is drawn.
            stage: where progress is shown.

        Raises:
            AttrbenchError: where the outcome can't be measured.
        """


class GroundTruth(ABC, Generic[OptionsT]):
    """Base class of ground truths as plugins register them: name and options; nothing is loaded before `open`.

    Attributes:
        name: what `--ground-truth` takes, followed by options: `leave-k-out:k=10`.
        summary: one line for `attrbench list`.
        Options: its options.
        by_default: whether it is measured in every run on a task that it applies to, or only where it is named.
        tuning_metrics: names of its metrics by which `attrbench tune --by` may choose options on tuning queries; none
            for one that trains models for each method. The first decides by default where `state` finds models for the
            tuning queries.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Options: type[OptionsT]
    by_default: ClassVar[bool] = True
    tuning_metrics: ClassVar[Sequence[str]] = ()

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def open(self, setting: TruthSetting) -> OpenGroundTruth | None:
        """Return this ground truth opened on a loaded task; None if it does not apply to the task.

        It asks the task for what it can do (`Trainable`, shipped losses, ...), never for its name.

        Raises:
            Unavailable: where it would apply and something is missing; the run goes on without it and says why.
        """

    def state(self, task: Task[Any], cache: Path) -> object:
        """Return data identifying files that decide the results, without loading the task; None if no file does.

        A record that was made with another state is not taken for an answer.

        Args:
            task: the task.
            cache: the run's cache folder.
        """
        return None


class ShipsBanks(ABC):
    """Mixin of tasks that ship banks: files of what models trained without some of the items do to the queries."""

    @abstractmethod
    def bank(self, design: Design) -> Path:
        """Return the path of a bank that `attrbench ground-truth build` writes; it need not exist."""
