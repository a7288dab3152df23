"""The contract of a task: a trained model, its training set, and queries that the model generated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from attrbench.errors import UsageError
from attrbench.options import Options

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from attrbench.counterfactual import Counterfactual
    from attrbench.diffusion.denoiser import Denoiser

OptionsT = TypeVar("OptionsT", bound=Options)


class TaskMeta(BaseModel):
    """What a task is, readable without opening it.

    Attributes:
        name: what `-t` takes.
        version: raised whenever the training set, the weights or the queries change; never mixed on a leaderboard.
        summary: one line for `attrbench list`.
        model: the model, with id and revision where it has one.
        dataset: the training set, likewise.
        licence: of data and weights.
        train_items: size of the training set.
        memory: what a run needs at its peak, in words.
        main_metric: the metric that ranks the leaderboard, such as `detection-rate@10`; no cut-off where it is that of
            a counterfactual.
        notes: what a reader of the numbers must know, such as how queries were labelled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int
    summary: str
    model: str
    dataset: str
    licence: str
    train_items: int
    memory: str
    main_metric: str = "detection-rate@10"
    notes: str = ""


@dataclass(frozen=True)
class Items:
    """Images with what belongs to them, in a fixed order; an item's id is its index.

    Attributes:
        images: [n, H, W, C] uint8.
        groups: the group of each item, what the detection rate compares.
        prompts: the prompt of each item, empty for unconditional models.
        fingerprint: hash of the contents.
        seeds: for pictures that `Denoiser.generate` made: the seed of each, from which its sampling trajectory can be
            run again; None for pictures from elsewhere.
    """

    images: NDArray[np.uint8]
    groups: Sequence[str]
    prompts: Sequence[str]
    fingerprint: str
    seeds: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Workspace:
    """Where a task and a run may keep files, and on what they compute.

    Attributes:
        cache: folder for generated queries, feature shards and index files.
        device: where the network runs.
    """

    cache: Path
    device: torch.device


class OpenTask(ABC):
    """A task made ready for a run. Properties load what they give on first use and keep it."""

    @property
    @abstractmethod
    def train(self) -> Items:
        """The training set."""

    @property
    @abstractmethod
    def queries(self) -> Items:
        """Images that the model generated with fixed seeds."""

    @property
    @abstractmethod
    def denoiser(self) -> Denoiser:
        """The trained model."""

    @property
    def counterfactual(self) -> Counterfactual | None:
        """How rankings are measured by training again; None for tasks that do not."""
        return None


class Task(ABC, Generic[OptionsT]):
    """A task as it is registered: light until `open` is called."""

    meta: ClassVar[TaskMeta]
    Options: type[OptionsT]

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def open(self, workspace: Workspace) -> OpenTask:
        """Checks that everything is there and returns the open task."""

    def train(self, out: Path, device: torch.device, report: Callable[[str], None]) -> None:
        """Repeats the training of the task's weights into `out`; resumes where an earlier call was cut off.

        Args:
            out: folder for the weights.
            device: where to train.
            report: called with a line of progress now and then.
        """
        raise UsageError(f"task {self.meta.name} has no training recipe")
