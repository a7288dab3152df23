"""The contract of a feature: what is kept of each item, how it is computed, and the view in which a method gets it.

A feature is a value: two methods that declare equal features share the same bytes on disk. The kinds that ship are in
`attrbench.features`; a method may bring a kind of its own along, and nothing but the class itself knows of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from attrbench.contracts.denoiser import Denoiser
    from attrbench.contracts.gradient_source import TimestepGrid
    from attrbench.contracts.method import Edited, Transformed
    from attrbench.contracts.task import Items, OpenTask

Index = NDArray[np.int64]
SplitName = Literal["train", "query"]
TrainViewT = TypeVar("TrainViewT")
QueryViewT = TypeVar("QueryViewT")


class Unit(NamedTuple):
    """The items first .. last - 1 of a split."""

    first: int
    last: int


@dataclass(frozen=True)
class Engine:
    """How gradients are computed; no choice changes a result by more than rounding, and none is in a fingerprint.

    Attributes:
        backend: `hooks`, `vmap` or `loop` (attrbench.gradients.backends).
        batch_size: noisy samples in a backward pass; None finds it (attrbench.gradients.batching).
    """

    backend: str = "hooks"
    batch_size: int | None = None


class ModelFacts(Protocol):
    """What decides the rows of a model, known without its weights in memory."""

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and of how they are used."""

    @property
    def takes_prompts(self) -> bool:
        """Whether the model draws from prompts."""

    @property
    def sampling(self) -> Mapping[str, object]:
        """What decides the sampler's steps besides the weights."""

    def timesteps(self, grid: TimestepGrid) -> Sequence[float]:
        """Return the timesteps of a grid."""

    def parameter_sizes(self, which: str) -> Mapping[str, int]:
        """Return the number of entries of each attributed parameter, in the order of the whole gradient."""


class Scope(Protocol):
    """What a plan knows of a task: sizes and fingerprints, no image and no weight."""

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
    """What a computation works with in its process: the open task, and where it may keep files."""

    @property
    def opened(self) -> OpenTask:
        """The open task."""

    @property
    def engine(self) -> Engine:
        """How gradients are computed."""

    @property
    def cache(self) -> Path:
        """Folder of everything that can be computed again."""

    def items(self, split: SplitName) -> Items:
        """Return all items of a split."""

    def denoiser(self, checkpoint: str) -> Denoiser:
        """Return the model with the weights of a checkpoint."""

    def transform(self, feature: Feature[Any, Any], gradients: Any) -> Transformed:
        """Return what the method that declared `feature` makes of the queries' gradients ([T, m, p]; T=1 for means)."""

    def edit(self, feature: Feature[Any, Any], model: Denoiser, query: Any) -> Edited:
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
        """Whether a shard within `unit` is not there or damaged; says nothing of it."""

    def missing(self, unit: Unit) -> list[Unit]:
        """Return the shards within `unit` that must be computed; damaged ones are reported."""

    def write(self, unit: Unit, arrays: Mapping[str, NDArray[Any]], timing: Any) -> None:
        """Commit a shard; arrays have the leading dimension `unit.last - unit.first`."""


@dataclass(frozen=True)
class StoreSpec:
    """Where and how the shards of a feature are kept.

    Attributes:
        description: everything that decides the numbers, as JSON can hold it.
        item_bytes: bytes of one item.
        shard_items: items of a shard, a power of two; it must follow from the description alone.
        kind, summary: what it is and which one, in words; `attrbench cache ls` shows them.
    """

    description: Mapping[str, object]
    item_bytes: int
    shard_items: int = 64
    kind: str = "feature"
    summary: str = ""


@dataclass(frozen=True)
class Costs:
    """What a feature cost, and what of it was lost.

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
class Prepared:
    """A computation that is ready.

    Attributes:
        compute: computes the missing shards of a unit, and commits them.
        failures: features that can't be computed, with the reason; the others are.
    """

    compute: Callable[[Unit], None]
    failures: Mapping[Feature[Any, Any], Exception] = field(default_factory=dict)


Stores = Mapping[tuple["Feature[Any, Any]", SplitName], ShardWriter]
"""The store of each feature that a computation brings, for each split that it brings it for."""


class Computation(ABC):
    """How features of one split are computed together: a frozen value; features with equal computations share one.

    Attributes:
        split: whose items it goes over.
        order: computations of a smaller number come first.
        title: what a progress bar calls it.
    """

    split: SplitName
    order: int = 1

    @property
    def title(self) -> str:
        """What a progress bar calls it."""
        return f"{self.split} features"

    @abstractmethod
    def summary(self, features: Sequence[Feature[Any, Any]], scope: Scope) -> str:
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

    def lacks(self, unit: Unit, stores: Stores, scope: Scope) -> bool:
        """Whether at least one store lacks a shard of a unit."""
        return any(store.lacks(self.items_of(unit, split, scope)) for (_, split), store in stores.items())

    @abstractmethod
    def prepare(self, stores: Stores, world: World) -> Prepared:
        """Make ready to compute units, in a process that has opened the task.

        Args:
            stores: the stores of the features that are wanted.
            world: the open task and its surroundings.

        Raises:
            Unavailable, UsageError: where the model has not what the features ask of it.
        """


class Feature(ABC, Generic[TrainViewT, QueryViewT]):
    """What is kept of each item: a frozen, hashable, picklable value with the behavior of its kind.

    A method declares it (`Method.features`) and gets it back as `train[feature]` and `query[feature]`, typed by the
    kind: `TrainViewT` is what `Method.fit` gets of the training set, `QueryViewT` what a scorer gets of m queries.
    """

    @abstractmethod
    def summary(self) -> str:
        """Return a few words that say what is kept, such as `sketch v=4096`."""

    @abstractmethod
    def computation(self, split: SplitName) -> Computation | None:
        """Return how it is computed for the items of a split; None where nothing is, or the other split's brings it."""

    @abstractmethod
    def store(self, split: SplitName, scope: Scope) -> StoreSpec:
        """Return what decides its numbers for a split, and what an item takes; asked only where it is computed."""

    def stored_in(self, split: SplitName) -> SplitName:
        """Return the split whose computation brings what is read back for `split`."""
        return split

    @property
    def calls_method(self) -> bool:
        """Whether computing it calls the method that declared it, by `World.transform` or `World.edit`."""
        return False

    @abstractmethod
    def train_view(self, data: SplitData) -> TrainViewT:
        """Return what `Method.fit` gets of the training set."""

    @abstractmethod
    def query_view(self, data: SplitData) -> QueryViewT:
        """Return what a scorer gets of all queries."""

    def train_costs(self, data: SplitData) -> Costs:
        """Return what it cost for the training set."""
        if data.shards is None:
            return Costs()
        seconds = float(data.shards.item_seconds().sum())
        lost = [("train", item, timestep) for item, timestep in data.shards.nonfinite()]
        return Costs(cache_seconds=seconds, rows_on_disk=data.shards.bytes, nonfinite=lost)  # type: ignore[arg-type]

    def query_costs(self, data: SplitData) -> Costs:
        """Return what it cost for the queries."""
        if data.shards is None:
            return Costs()
        lost = [("query", item, timestep) for item, timestep in data.shards.nonfinite()]
        return Costs(query_seconds=data.shards.item_seconds(), nonfinite=lost)  # type: ignore[arg-type]

    # Views seen otherwise: single queries for timing, and the invariances that `attrbench check` tries.

    def select_queries(self, view: QueryViewT, queries: Any) -> QueryViewT:
        """Return the view of the queries at `queries` (a slice, or [k] indices)."""
        return view[queries]  # type: ignore[index, no-any-return]

    def select_items(self, view: TrainViewT, items: Index) -> TrainViewT:
        """Return the view of the training items at `items` ([k] indices, in any order and with repeats)."""
        return view[items]  # type: ignore[index, no-any-return]

    def against_items(self, view: QueryViewT, items: Index) -> QueryViewT:
        """Return the queries' view against the training items at `items`, where it depends on them."""
        return view

    def depends_on_items(self) -> bool:
        """Whether the queries' view depends on the training items (products with them)."""
        return False

    def tells_items_as_queries(self) -> bool:
        """Whether the training set alone tells what an item would be as a query; products with queries do not."""
        return True

    def items_as_queries(self, train: TrainViewT, query: QueryViewT) -> QueryViewT | None:
        """Return the training items as if they were queries; None where a query is too different a thing."""
        return train  # type: ignore[return-value]


@dataclass(frozen=True)
class SplitData:
    """What a feature reads itself back from.

    Attributes:
        items: the items of the split, as many as the run uses.
        count: their number.
        shards: what was computed; None for features that compute nothing.
        scope: sizes and fingerprints.
    """

    items: Items
    count: int
    shards: Shards | None
    scope: Scope

    @property
    def stored(self) -> Shards:
        """The shards of a feature that computes something."""
        assert self.shards is not None
        return self.shards


@dataclass(frozen=True)
class FeatureRequest:
    """What a method asks for.

    Attributes:
        train: features of the training set.
        query: features of the queries.
    """

    train: tuple[Feature[Any, Any], ...] = ()
    query: tuple[Feature[Any, Any], ...] = ()

    @staticmethod
    def both(*features: Feature[Any, Any]) -> FeatureRequest:
        """Return a request for the same features of training set and queries."""
        return FeatureRequest(features, features)


class TrainFeatures:
    """What `Method.fit` gets: `train[feature]` is the training set's view of a feature that the method declared.

    Args:
        count: number of training items, n.
        views: the view of each feature.
    """

    def __init__(self, count: int, views: Mapping[Feature[Any, Any], Any] | None = None) -> None:
        self.count = count
        self.views: dict[Feature[Any, Any], Any] = dict(views or {})

    def __getitem__(self, feature: Feature[TrainViewT, Any]) -> TrainViewT:
        return _view(self.views, feature)  # type: ignore[no-any-return]

    def select(self, items: Index) -> TrainFeatures:
        """Return the features of the training items at `items` ([k] indices, in any order and with repeats)."""
        views = {feature: feature.select_items(view, items) for feature, view in self.views.items()}
        return TrainFeatures(len(items), views)

    def as_queries(self, query: QueryFeatures) -> QueryFeatures | None:
        """Return the training items as queries; None where a query is too different a thing.

        Args:
            query: what the method gets of queries, for each of whose features the training items have the view of a
                feature of the same kind.
        """
        views: dict[Feature[Any, Any], Any] = {}
        kept = list(self.views.items())
        for feature, view in query.views.items():
            same = next((own for key, own in kept if key == feature), None)
            own = same if same is not None else next((own for key, own in kept if type(key) is type(feature)), None)
            found = None if own is None else feature.items_as_queries(own, view)
            if found is None:
                return None
            views[feature] = found
        return QueryFeatures(np.arange(self.count), views)


class QueryFeatures:
    """What a scorer gets of m queries: `query[feature]` is their view of a feature that the method declared.

    Args:
        ids: [m] ids of the queries, for methods whose randomness depends on the query.
        views: the view of each feature.
    """

    def __init__(self, ids: Index, views: Mapping[Feature[Any, Any], Any] | None = None) -> None:
        self.ids = ids
        self.views: dict[Feature[Any, Any], Any] = dict(views or {})

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, feature: Feature[Any, QueryViewT]) -> QueryViewT:
        return _view(self.views, feature)  # type: ignore[no-any-return]

    def select(self, queries: Any) -> QueryFeatures:
        """Return the features of some queries, given as a slice or [k] indices."""
        views = {feature: feature.select_queries(view, queries) for feature, view in self.views.items()}
        return QueryFeatures(self.ids[queries], views)

    def query(self, index: int) -> QueryFeatures:
        """Return the features of one query, as a set of one."""
        return self.select(slice(index, index + 1))

    def against_items(self, items: Index) -> QueryFeatures:
        """Return the queries' features against the training items at `items` ([k] indices)."""
        views = {feature: feature.against_items(view, items) for feature, view in self.views.items()}
        return QueryFeatures(self.ids, views)


def _view(views: Mapping[Any, Any], feature: Hashable) -> Any:
    try:
        return views[feature]
    except KeyError:
        declared = ", ".join(sorted({type(other).__name__ for other in views})) or "none"
        raise KeyError(
            f"the method did not declare this {type(feature).__name__} in features() (declared: {declared}): {feature}"
        ) from None
