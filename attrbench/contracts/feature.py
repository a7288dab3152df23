"""The contract of a feature: data kept of each item for methods (gradient sketches, losses), and how it is computed.

A feature is a value: two methods that declare equal features share the same bytes on disk. The kinds that ship are in
`attrbench.features`; a method may bring a kind of its own along, and nothing but the class itself knows of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from attrbench.contracts.computation import Computation, Costs, Scope, Shards, SplitName, StoreSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attrbench.contracts.task import Items

Index: TypeAlias = "NDArray[np.int64]"
Keys: TypeAlias = Callable[[], Sequence[str]]
TrainViewT = TypeVar("TrainViewT")
QueryViewT = TypeVar("QueryViewT")


class Feature(ABC, Generic[TrainViewT, QueryViewT]):
    """Base class of features: data kept of each item, such as gradient sketches; a frozen, hashable, picklable value.

    A method declares it (`Method.features`) and gets it back as `train[feature]` and `query[feature]`, typed by the
    kind: `TrainViewT` is what `Method.fit` gets of the training set, `QueryViewT` what a scorer gets of m queries.
    """

    @abstractmethod
    def summary(self) -> str:
        """Return a few words for the printed plan on what is kept of each item, such as `sketch v=4096`."""

    @abstractmethod
    def computation(self, split: SplitName) -> Computation[Any] | None:
        """Return how the feature is computed for a split; None if nothing is, or the other split's computation does."""

    @abstractmethod
    def store(self, split: SplitName, scope: Scope) -> StoreSpec:
        """Return what identifies the feature's files for a split, and bytes per item; asked only if it is computed."""

    def stored_in(self, split: SplitName) -> SplitName:
        """Return the split (`train` or `query`) whose computation stores the data that is read back for `split`."""
        return split

    @property
    def calls_method(self) -> bool:
        """Return whether computing the feature calls the declaring method's own `transform` or `edit`."""
        return False

    @abstractmethod
    def train_view(self, data: SplitData) -> TrainViewT:
        """Return the training set's data of this feature in the form that `Method.fit` receives, such as an array."""

    @abstractmethod
    def query_view(self, data: SplitData) -> QueryViewT:
        """Return the data of all queries of this feature in the form that a scorer receives, such as an array."""

    def train_costs(self, data: SplitData) -> Costs:
        """Return the costs of computing the feature for the training set: seconds, bytes, non-finite gradients."""
        if data.shards is None:
            return Costs()
        seconds = float(data.shards.item_seconds().sum())
        lost = [("train", item, timestep) for item, timestep in data.shards.nonfinite()]
        return Costs(cache_seconds=seconds, rows_on_disk=data.shards.bytes, nonfinite=lost)  # type: ignore[arg-type]

    def query_costs(self, data: SplitData) -> Costs:
        """Return the costs of computing the feature for the queries: seconds of each, non-finite gradients."""
        if data.shards is None:
            return Costs()
        lost = [("query", item, timestep) for item, timestep in data.shards.nonfinite()]
        return Costs(query_seconds=data.shards.item_seconds(), nonfinite=lost)  # type: ignore[arg-type]

    # Views seen otherwise: single queries for timing, and the invariances that `attrbench check` tries.

    def select_queries(self, view: QueryViewT, queries: Any) -> QueryViewT:
        """Return the part of the queries' feature data for the queries at `queries` (a slice, or [k] indices)."""
        return view[queries]  # type: ignore[index, no-any-return]

    def select_items(self, view: TrainViewT, items: Index) -> TrainViewT:
        """Return the part of the training feature data for the items at `items` ([k] indices, any order, repeats)."""
        return view[items]  # type: ignore[index, no-any-return]

    def against_items(self, view: QueryViewT, items: Index) -> QueryViewT:
        """Return the queries' data restricted to the training items at `items`, if it depends on them (products)."""
        return view

    def depends_on_items(self) -> bool:
        """Return whether the queries' data depends on the training items, as inner products with them do."""
        return False

    def tells_items_as_queries(self) -> bool:
        """Return whether training data alone suffices to use training items as queries; not so for products."""
        return True

    def items_as_queries(self, train: TrainViewT, query: QueryViewT) -> QueryViewT | None:
        """Return the training items' data in the form of queries' data, for checks; None if the two differ too much."""
        return train  # type: ignore[return-value]


@dataclass(frozen=True)
class SplitData:
    """The items and stored shards of the training set or queries, from which a feature makes the data methods get.

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
        """Return the stored shards of a feature that computes something; it is an error for others."""
        assert self.shards is not None
        return self.shards


@dataclass(frozen=True)
class FeatureRequest:
    """The features (such as gradient sketches) that a method needs of the training set and of the queries.

    Attributes:
        train: features of the training set.
        query: features of the queries.
    """

    train: tuple[Feature[Any, Any], ...] = ()
    query: tuple[Feature[Any, Any], ...] = ()

    @staticmethod
    def both(*features: Feature[Any, Any]) -> FeatureRequest:
        """Return a method's request for the same features of the training set and of the queries."""
        return FeatureRequest(features, features)


class TrainFeatures:
    """The training set's features as `Method.fit` gets them: `train[feature]` is the data of a declared feature.

    Args:
        count: number of training items, n.
        views: the view of each feature.
        keys: returns the items' keys (`Items.keys`), called when they are asked for; by default keys by place.
    """

    def __init__(
        self, count: int, views: Mapping[Feature[Any, Any], Any] | None = None, keys: Keys | None = None
    ) -> None:
        self.count = count
        self.views: dict[Feature[Any, Any], Any] = dict(views or {})
        self._keys = keys or (lambda: list(map(str, range(count))))

    @cached_property
    def keys(self) -> Sequence[str]:
        """The key of each training item, a hash of its content: what a random draw for it must be a function of."""
        return self._keys()

    def __getitem__(self, feature: Feature[TrainViewT, Any]) -> TrainViewT:
        return _view(self.views, feature)  # type: ignore[no-any-return]

    def select(self, items: Index) -> TrainFeatures:
        """Return the features of the training items at `items` ([k] indices, in any order and with repeats)."""
        views = {feature: feature.select_items(view, items) for feature, view in self.views.items()}
        return TrainFeatures(len(items), views, lambda: _chosen(self.keys, items))

    def as_queries(self, query: QueryFeatures, ids: Index) -> QueryFeatures | None:
        """Return the training items as if they were queries, for checks; None if query features differ too much.

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
        return QueryFeatures(ids, views, lambda: self.keys)


class QueryFeatures:
    """The features of m queries as a scorer gets them: `query[feature]` is the data of a declared feature.

    Args:
        ids: [m] ids of the queries: their places in the task or question.
        views: the view of each feature.
        keys: returns the queries' keys (`Items.keys`), called when they are asked for; by default the ids.
    """

    def __init__(
        self, ids: Index, views: Mapping[Feature[Any, Any], Any] | None = None, keys: Keys | None = None
    ) -> None:
        self.ids = ids
        self.views: dict[Feature[Any, Any], Any] = dict(views or {})
        self._keys = keys or (lambda: list(map(str, ids.tolist())))

    @cached_property
    def keys(self) -> Sequence[str]:
        """The key of each query, a hash of its content, for methods whose randomness depends on the query."""
        return self._keys()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, feature: Feature[Any, QueryViewT]) -> QueryViewT:
        return _view(self.views, feature)  # type: ignore[no-any-return]

    def select(self, queries: Any) -> QueryFeatures:
        """Return the features of some of the queries, given as a slice or [k] indices."""
        views = {feature: feature.select_queries(view, queries) for feature, view in self.views.items()}
        return QueryFeatures(self.ids[queries], views, lambda: _chosen(self.keys, queries))

    def query(self, index: int) -> QueryFeatures:
        """Return the features of the query at `index`, as a set of one query."""
        return self.select(slice(index, index + 1))

    def against_items(self, items: Index) -> QueryFeatures:
        """Return the queries' features with products restricted to the training items at `items` ([k] indices)."""
        views = {feature: feature.against_items(view, items) for feature, view in self.views.items()}
        return QueryFeatures(self.ids, views, lambda: self.keys)


def _chosen(keys: Sequence[str], places: Any) -> Sequence[str]:
    """Return the keys at `places`, a slice or [k] indices."""
    return keys[places] if isinstance(places, slice) else [keys[place] for place in places]


def _view(views: Mapping[Any, Any], feature: Hashable) -> Any:
    try:
        return views[feature]
    except KeyError:
        declared = ", ".join(sorted({type(other).__name__ for other in views})) or "none"
        raise KeyError(
            f"the method did not declare this {type(feature).__name__} in features() (declared: {declared}): {feature}"
        ) from None
