"""The views of gradient features: what a method gets of the training set and of the queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Index = NDArray[np.int64]
BLOCK = 5
"""Items in a block of chosen rows: few, so that a check sees several blocks pass by."""


class TrainRows(Protocol):
    """Unit-norm gradient rows of the training set, read from memory-mapped shards block by block.

    There may be more of them than the memory holds: take the blocks as they come.
    """

    @property
    def count(self) -> int:
        """Number of items, n."""

    @property
    def width(self) -> int:
        """Numbers of a row, T * v."""

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes as it is stored, its norms not counted."""

    @property
    def norms(self) -> FloatArray:
        """[n, T] norms of the whole gradients."""

    @property
    def layers(self) -> Mapping[str, slice] | None:
        """Name and columns of each layer in a row, where layers are kept apart."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of parameters of each layer; of the whole gradient under the empty name, where none are kept apart."""

    def take(self, items: Index) -> FloatArray:
        """Return the [len(items), T, v] rows of these items, in that order."""

    def blocks(self) -> Iterator[tuple[int, FloatArray]]:
        """Yield (index of the first item, [items, T, v] rows) in item order."""


class ChosenRows:
    """Some of the rows of a training set, in any order and with repeats.

    Args:
        rows: all of them.
        index: [n] which.
    """

    def __init__(self, rows: TrainRows, index: Index) -> None:
        self._rows = rows
        self._index = index
        self.count = len(index)
        self.width, self.row_bytes = rows.width, rows.row_bytes
        self.layers, self.sizes = rows.layers, rows.sizes
        self.norms: FloatArray = rows.norms[index]

    def take(self, items: Index) -> FloatArray:
        """Return the [len(items), T, v] rows of these items."""
        return self._rows.take(self._index[items])

    def blocks(self) -> Iterator[tuple[int, FloatArray]]:
        """Yield (index of the first item, [items, T, v] rows) in item order."""
        for first in range(0, self.count, BLOCK):
            yield first, self._rows.take(self._index[first : first + BLOCK])


@dataclass(frozen=True)
class QueryRows:
    """Unit-norm gradient rows of m queries.

    Attributes:
        rows: [m, T, v].
        norms: [m, T] norms of the whole gradients.
    """

    rows: FloatArray
    norms: FloatArray

    def __getitem__(self, queries: Any) -> QueryRows:
        return QueryRows(self.rows[queries], self.norms[queries])

    @property
    def raw(self) -> FloatArray:
        """[m, T, v] rows times their norms."""
        return self.rows * self.norms[:, :, None]


@dataclass(frozen=True)
class TrainProducts:
    """What a method knows of the training set when only products with the queries are kept.

    Attributes:
        sizes: number of parameters of each layer.
        facts: what the method's transform of the queries' gradients said of itself.
    """

    sizes: Mapping[str, int]
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class QueryProducts:
    """Inner products of the queries' whole gradients with those of the training items.

    Attributes:
        values: [m, n, T] products of raw gradients, or [m, n, T, L] where L layers are kept apart.
        query_norms: [m, T].
        train_norms: [n, T].
        bytes_if_kept: what the whole gradients of the training set would take on disk.
        pass_seconds: what the pass over the training set took, which a new query would cost again.
        facts: what the method's transform said of itself.
    """

    values: FloatArray
    query_norms: FloatArray
    train_norms: FloatArray
    bytes_if_kept: int = 0
    pass_seconds: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, queries: Any) -> QueryProducts:
        return replace(self, values=self.values[queries], query_norms=self.query_norms[queries])

    def against(self, items: Index) -> QueryProducts:
        """Return the products with the training items at `items`."""
        share = len(items) / self.values.shape[1]
        return replace(
            self,
            values=self.values[:, items],
            train_norms=self.train_norms[items],
            bytes_if_kept=round(self.bytes_if_kept * share),
        )


@dataclass(frozen=True)
class TrainGram:
    """The Gram matrix of the training items' whole mean gradients.

    Attributes:
        matrix: [n, n] float64; zeros for an item whose gradient was not finite.
        sizes: number of parameters of the whole gradient, under the empty name.
    """

    matrix: NDArray[np.float64]
    sizes: Mapping[str, int]

    def __getitem__(self, items: Index) -> TrainGram:
        return TrainGram(self.matrix[np.ix_(items, items)], self.sizes)
