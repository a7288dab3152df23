"""Base of ground truths that read a bank, a file of what models trained without some items do to a task's queries."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.ground_truth import Design, GroundTruth, OpenGroundTruth, ShipsBanks, TruthSetting
from attrbench.contracts.options import Options
from attrbench.contracts.record import TrainingNoise
from attrbench.contracts.task import Task
from attrbench.errors import AttrbenchError, Unavailable
from attrbench.files import sha256_of
from attrbench.ground_truth.bank import SubsetBank, built_bank, read_bank
from attrbench.ground_truth.build import make_whole

DIGITS = 6
"""Decimals that records hold of what a model or subset adds to an error, which is some thousandths."""


class BankOptions(Options):
    """Options of ground truths that read a bank: which file."""

    bank: Path | None = None
    """File of the retrained models' effects; none: the one built in the cache, or else the one that the task ships."""


def bank_noise(error: float, parts: NDArray[np.float64], freedom: int) -> TrainingNoise:
    """Return the training noise of a result for its record, its parts with as many digits as they need."""
    return TrainingNoise(error=error, freedom=freedom, parts=parts.round(DIGITS).tolist())


def find_bank(task: Task[Any], cache: Path, design: Design) -> Path | None:
    """Return the file of a task's bank: the one built in a cache, else the one that ships; None where neither is."""
    built = built_bank(task, cache, design)
    return built if built.is_file() else find_shipped_bank(task, design)


def find_shipped_bank(task: Task[Any], design: Design) -> Path | None:
    """Return the file of the bank that ships with a task; None where none does."""
    path = task.bank(design) if isinstance(task, ShipsBanks) else None
    return path if path is not None and path.is_file() else None


class BankTruth(GroundTruth[BankOptions]):
    """Base class of ground truths that read a bank of retrained models' effects on a task's queries.

    Attributes:
        design: which models the bank holds.
    """

    Options: ClassVar[type[BankOptions]] = BankOptions  # type: ignore[misc]
    design: ClassVar[Design]

    def open(self, setting: TruthSetting) -> OpenGroundTruth | None:
        """Return this ground truth for a task that has a bank of the right design; None without one.

        Raises:
            AttrbenchError: where the bank that was named does not fit the task.
            Unavailable: where one that was found does not.
        """
        path = self._bank(setting.task, setting.workspace.cache)
        if path is None:
            return None
        try:
            if path == built_bank(setting.task, setting.workspace.cache, self.design):
                make_whole(path, setting)
            return self.over(read_bank(path, setting.task, setting.opened, self.design))
        except AttrbenchError as error:
            if self.options.bank is not None:
                raise
            raise Unavailable(str(error)) from None

    @abstractmethod
    def over(self, bank: SubsetBank) -> OpenGroundTruth:
        """Return this ground truth over a bank that fits the task."""

    def state(self, task: Task[Any], cache: Path) -> object:
        """Return the checksum of the task's bank, to detect changes; None where there is none."""
        path = self._bank(task, cache)
        return sha256_of(path) if path is not None and path.is_file() else None

    def _bank(self, task: Task[Any], cache: Path) -> Path | None:
        return find_bank(task, cache, self.design) if self.options.bank is None else self.options.bank
