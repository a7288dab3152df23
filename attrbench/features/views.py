"""The objects in which methods get gradient features: gradient rows, inner products and Gram matrices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from attrbench.store.encoding import Codes

FloatArray = NDArray[np.float32]
Index = NDArray[np.int64]
BLOCK = 5
"""Number of items in a block of `ChosenRows`; small, so that conformance checks see several blocks."""


class TrainRows(Protocol):
    """Protocol of the training set's unit-norm gradient rows, read from memory-mapped shards block by block.

    They may not fit into memory: read them with `blocks`.
    """

    @property
    def count(self) -> int:
        """Return n, the number of training items."""

    @property
    def width(self) -> int:
        """Return the length of an item's row, T * v numbers."""

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one item's stored row, without its norms."""

    @property
    def norms(self) -> FloatArray:
        """Return the [n, T] norms of the whole, unsketched gradients."""

    @property
    def layers(self) -> Mapping[str, slice] | None:
        """Return layer name -> columns in a gradient row; None if layers are not kept apart."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return layer name -> number of parameters; '' -> p if layers are not kept apart."""

    def take(self, items: Index) -> FloatArray:
        """Return the [len(items), T, v] gradient rows of these training items, in that order."""

    def blocks(self) -> Iterator[tuple[int, FloatArray]]:
        """Yield (index of the first item, [items, T, v] gradient rows) block by block, in item order."""

    def codes(self) -> Iterable[tuple[int, Codes]] | None:
        """Return (index of the first item, rows as they are stored) block by block; None where they are not int8."""


class ChosenRows:
    """The gradient rows of selected training items, in any order and with repeats, read on demand.

    Args:
        rows: all rows.
        index: [n] indices of the selected rows.
    """

    def __init__(self, rows: TrainRows, index: Index) -> None:
        self._rows = rows
        self._index = index
        self.count = len(index)
        self.width, self.row_bytes = rows.width, rows.row_bytes
        self.layers, self.sizes = rows.layers, rows.sizes

    @cached_property
    def norms(self) -> FloatArray:
        """Return the [n, T] norms of the selected items' whole gradients."""
        return self._rows.norms[self._index]

    def take(self, items: Index) -> FloatArray:
        """Return the [len(items), T, v] gradient rows of these items, indexed within the selection."""
        return self._rows.take(self._index[items])

    def blocks(self) -> Iterator[tuple[int, FloatArray]]:
        """Yield (index of the first item, [items, T, v] gradient rows) of the selection, block by block."""
        for first in range(0, self.count, BLOCK):
            yield first, self._rows.take(self._index[first : first + BLOCK])

    def codes(self) -> None:
        """Return None: the rows of a selection do not lie together."""


@dataclass(frozen=True)
class QueryRows:
    """The unit-norm gradient rows [m, T, v] of m queries, with the norms of the whole gradients.

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
        """Return the raw gradient rows [m, T, v]: unit-norm rows times norms."""
        return self.rows * self.norms[:, :, None]


@dataclass(frozen=True)
class TrainProducts:
    """The training set's part of gradient products: layer sizes and facts; `QueryProducts` holds the products.

    Attributes:
        sizes: layer name -> number of parameters.
        facts: numbers reported by the method's transform of the query gradients.
    """

    sizes: Mapping[str, int]
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class QueryProducts:
    """The inner products [m, n, T] of unsketched query and training gradients, with their norms and costs.

    Attributes:
        values: [m, n, T] products of raw gradients, or [m, n, T, L] if L layers are kept apart.
        query_norms: [m, T] norms of the query gradients.
        train_norms: [n, T] norms of the training gradients.
        bytes_if_kept: bytes that the training gradients would take on disk.
        pass_seconds: seconds of the pass over the training set, which each new set of queries takes.
        facts: numbers reported by the method's transform.
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
        """Return the inner products with the training items at `items` ([k] indices) only."""
        share = len(items) / self.values.shape[1]
        return replace(
            self,
            values=self.values[:, items],
            train_norms=self.train_norms[items],
            bytes_if_kept=round(self.bytes_if_kept * share),
        )


@dataclass(frozen=True)
class TrainGram:
    """The Gram matrix [n, n] of the training items' unsketched mean gradients.

    Attributes:
        matrix: [n, n] float64; zeros for an item whose gradient was not finite.
        sizes: number of parameters of the whole gradient, under the empty name.
    """

    matrix: NDArray[np.float64]
    sizes: Mapping[str, int]

    def __getitem__(self, items: Index) -> TrainGram:
        return TrainGram(self.matrix[np.ix_(items, items)], self.sizes)
