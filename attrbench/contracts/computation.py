"""The contract of a computation: how features are computed, from a task that is planned or open, into stores of shards.

Three views of a task and its surroundings: `ModelFacts` and `Scope`, which suffice for a plan; and `World`, the open
task, which a `Computation` works with. What it computes goes through a `ShardWriter` and is read back from `Shards`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from attrbench.contracts.denoiser import Denoiser
    from attrbench.contracts.gradient_source import TimestepGrid
    from attrbench.contracts.method_results import Edited, Transformed
    from attrbench.contracts.samples import Samples
    from attrbench.contracts.task import Items, OpenTask

SplitName = Literal["train", "query"]
FeatureT = TypeVar("FeatureT", bound=Hashable)


class Unit(NamedTuple):
    """The items first .. last - 1 of a split."""

    first: int
    last: int


@dataclass(frozen=True)
class Engine:
    """The settings of gradient computations; none changes a result by more than rounding or is in a fingerprint.

    Attributes:
        backend: `hooks`, `vmap` or `loop` (attrbench.gradients.backends).
        batch_size: noisy samples in a backward pass; None finds it (attrbench.gradients.batching).
    """

    backend: str = "hooks"
    batch_size: int | None = None


class ModelFacts(Protocol):
    """The facts of a model that decide its rows, known without its weights in memory."""

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and of how they are used."""

    @property
    def takes_prompts(self) -> bool:
        """Return whether the model draws from prompts."""

    @property
    def sampling(self) -> Mapping[str, object]:
        """Return what decides the sampler's steps besides the weights."""

    def timesteps(self, grid: TimestepGrid) -> Sequence[float]:
        """Return the timesteps of a grid."""

    def parameter_sizes(self, which: str) -> Mapping[str, int]:
        """Return the number of entries of each attributed parameter, in the order of the whole gradient."""


class Scope(Protocol):
    """The facts of a task that a plan needs: sizes and fingerprints, no image and no weight."""

    @property
    def task(self) -> str:
        """Name and version of the task."""

    @property
    def seed(self) -> int:
        """The run's seed."""

    def count(self, split: SplitName) -> int:
        """Return the number of items of a split that the run uses."""

    def items_fingerprint(self, split: SplitName) -> str:
        """Return the hash of all items of a split."""

    def model(self, checkpoint: str) -> ModelFacts:
        """Return the facts of the model with the weights of a checkpoint."""


class World(Scope, Protocol):
    """The surroundings of a computation in its process: the open task, and where it may keep files."""

    @property
    def opened(self) -> OpenTask:
        """The open task."""

    @property
    def engine(self) -> Engine:
        """Return how gradients are computed."""

    @property
    def cache(self) -> Path:
        """Folder of everything that can be computed again."""

    def items(self, split: SplitName) -> Items:
        """Return all items of a split."""

    def denoiser(self, checkpoint: str) -> Denoiser:
        """Return the model with the weights of a checkpoint."""

    def transform(self, feature: Any, gradients: Tensor) -> Transformed:
        """Return what the method that declared `feature` makes of the queries' gradients ([T, m, p]; T=1 for means)."""

    def edit(self, feature: Any, model: Denoiser, query: Samples) -> Edited:
        """Let the method that declared `feature` change the weights of `model` for a query, given as its samples."""


class Shards(Protocol):
    """The stored shards of one feature and split, in item order."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the numbers."""

    def blocks(self) -> Iterator[tuple[int, Mapping[str, NDArray[Any]]]]:
        """Yield (index of the first item, arrays by name) of each shard, memory-mapped."""

    def array(self, name: str) -> NDArray[Any]:
        """Return an array of all items, joined from the shards."""

    def item_seconds(self) -> NDArray[np.float64]:
        """Return the seconds that each item took, [items]."""

    @property
    def bytes(self) -> int:
        """Size of the files."""

    def nonfinite(self) -> list[tuple[int, float]]:
        """Return (item, timestep) of every gradient that was NaN or infinite."""

    def row_error(self) -> float:
        """Return the root mean square of the relative error that the storage type causes."""

    def facts(self) -> dict[str, float]:
        """Return the numbers that the computation noted beside the first shard."""


class ShardWriter(Protocol):
    """The store of one feature and split, as a computation fills it."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the numbers."""

    @property
    def shard_items(self) -> int:
        """Items of a shard."""

    def lacks(self, unit: Unit) -> bool:
        """Return whether the row of an item of `unit` is not there or damaged; says nothing of it."""

    def lacking(self, unit: Unit) -> list[Unit]:
        """Return the ranges within `unit` that must be computed, each a shard; says nothing of damaged ones."""

    def missing(self, unit: Unit) -> list[Unit]:
        """Return the ranges within `unit` that must be computed, each a shard; damaged ones are reported."""

    def write(self, unit: Unit, arrays: Mapping[str, NDArray[Any]], timing: Any) -> None:
        """Commit a shard; arrays have the leading dimension `unit.last - unit.first`."""


@dataclass(frozen=True)
class StoreSpec:
    """The storage of a feature: what identifies its shards, and their size.

    Attributes:
        description: everything that decides the numbers, as JSON can hold it.
        item_bytes: bytes of one item.
        shard_items: items of a shard, a power of two; it must follow from the description alone.
        rows: what a row depends on besides the description: `item`, its own item (`Items.keys`), so that it serves
            every set that the item is in; `trajectory`, its own item and seed; `set`, the whole split, which the
            description must then identify.
        kind, summary: what it is and which one, in words; `attrbench cache ls` shows them.
    """

    description: Mapping[str, object]
    item_bytes: int
    shard_items: int = 64
    rows: Literal["item", "trajectory", "set"] = "set"
    kind: str = "feature"
    summary: str = ""


@dataclass(frozen=True)
class Costs:
    """The costs of a feature, and its gradients that were not finite.

    Attributes:
        cache_seconds: computing it for the training set, once.
        query_seconds: computing it for each query, [m] or one number for all.
        rows_on_disk: bytes of the files that hold the rows of the training set.
        shared_bytes: what a new query needs besides the rows, such as a dense projection.
        row_error: root mean square of the relative error that the storage type causes; None where no rows are kept.
        nonfinite: (split, item, timestep) of every NaN or infinite gradient.
        facts: numbers for the record.
    """

    cache_seconds: float = 0.0
    query_seconds: NDArray[np.float64] | float = 0.0
    rows_on_disk: int = 0
    shared_bytes: int = 0
    row_error: float | None = None
    nonfinite: Sequence[tuple[SplitName, int, float]] = ()
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared(Generic[FeatureT]):
    """A computation that is ready.

    Attributes:
        compute: computes the missing shards of a unit, and commits them.
        failures: features that can't be computed, with the reason; the others are.
    """

    compute: Callable[[Unit], None]
    failures: Mapping[FeatureT, Exception] = field(default_factory=dict)


Stores: TypeAlias = Mapping[tuple[FeatureT, SplitName], ShardWriter]
"""The store of each feature that a computation brings, for each split that it brings it for."""


class Computation(ABC, Generic[FeatureT]):
    """A way to compute features of one split together, as a frozen value; features with equal computations share one.

    `FeatureT` is the kind of feature (attrbench.contracts.feature) that it computes.

    Attributes:
        split: whose items it goes over.
        order: computations of a smaller number come first.
        title: what a progress bar calls it.
    """

    split: SplitName
    order: int = 1

    @property
    def title(self) -> str:
        """Return what a progress bar calls it."""
        return f"{self.split} features"

    @abstractmethod
    def summary(self, features: Sequence[FeatureT], scope: Scope) -> str:
        """Return one line that says what is computed of what, for the plan of a run."""

    @abstractmethod
    def identity(self, scope: Scope) -> object:
        """Return what tells this computation apart from others, as JSON can hold it; names its locks."""

    @abstractmethod
    def units(self, scope: Scope) -> list[Unit]:
        """Return the pieces of work. They follow from the counts alone, so that any worker can do any of them."""

    def items_of(self, unit: Unit, split: SplitName, scope: Scope) -> Unit:
        """Return the items of a split whose rows a unit brings."""
        return unit

    def lacks(self, unit: Unit, stores: Stores[FeatureT], scope: Scope) -> bool:
        """Return whether at least one store lacks a shard of a unit."""
        return any(store.lacks(self.items_of(unit, split, scope)) for (_, split), store in stores.items())

    @abstractmethod
    def prepare(self, stores: Stores[FeatureT], world: World) -> Prepared[FeatureT]:
        """Make ready to compute units, in a process that has opened the task.

        Args:
            stores: the stores of the features that are wanted.
            world: the open task and its surroundings.

        Raises:
            Unavailable, UsageError: where the model has not what the features ask of it.
        """
