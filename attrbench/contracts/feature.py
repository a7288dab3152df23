"""The contract of a feature: what is kept of each item, how it is computed, and the view in which a method gets it.

A feature is a value: two methods that declare equal features share the same bytes on disk. The kinds that ship are in
`attrbench.features`; a method may bring a kind of its own along, and nothing but the class itself knows of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from attrbench.contracts.computation import Computation, Costs, Scope, Shards, SplitName, StoreSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attrbench.contracts.task import Items

Index: TypeAlias = "NDArray[np.int64]"
TrainViewT = TypeVar("TrainViewT")
QueryViewT = TypeVar("QueryViewT")


class Feature(ABC, Generic[TrainViewT, QueryViewT]):
    """A kind of data kept of each item, with its settings and behavior: a frozen, hashable, picklable value.

    A method declares it (`Method.features`) and gets it back as `train[feature]` and `query[feature]`, typed by the
    kind: `TrainViewT` is what `Method.fit` gets of the training set, `QueryViewT` what a scorer gets of m queries.
    """

    @abstractmethod
    def summary(self) -> str:
        """Return a few words that say what is kept, such as `sketch v=4096`."""

    @abstractmethod
    def computation(self, split: SplitName) -> Computation[Any] | None:
        """Return how it is computed for the items of a split; None where nothing is, or the other split's brings it."""

    @abstractmethod
    def store(self, split: SplitName, scope: Scope) -> StoreSpec:
        """Return what keys its stored files for a split, and the bytes of an item; asked only where it is computed."""

    def stored_in(self, split: SplitName) -> SplitName:
        """Return the split whose computation brings what is read back for `split`."""
        return split

    @property
    def calls_method(self) -> bool:
        """Return whether computing it calls the method that declared it, by `World.transform` or `World.edit`."""
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
        """Return whether the queries' view depends on the training items (products with them)."""
        return False

    def tells_items_as_queries(self) -> bool:
        """Return whether the training set alone tells an item's view as a query; products with queries do not."""
        return True

    def items_as_queries(self, train: TrainViewT, query: QueryViewT) -> QueryViewT | None:
        """Return the training items as if they were queries; None where a query is too different a thing."""
        return train  # type: ignore[return-value]


@dataclass(frozen=True)
class SplitData:
    """The items and stored shards of one split, from which a feature makes its view.

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
    """The features that a method asks for, of the training set and of the queries.

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
    """The argument of `Method.fit`: `train[feature]` is the training set's view of a feature that was declared.

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

    def as_queries(self, query: QueryFeatures, ids: Index) -> QueryFeatures | None:
        """Return the training items as queries; None where a query is too different a thing.

        Args:
            query: what the method gets of queries, for each of whose features the training items have the view of a
                feature of the same kind.
            ids: [n] ids that the training items have as queries.
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
        return QueryFeatures(ids, views)


class QueryFeatures:
    """The argument of a scorer, for m queries: `query[feature]` is their view of a feature that was declared.

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
