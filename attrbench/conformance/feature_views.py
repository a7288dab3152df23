"""Features seen otherwise: in another order, with repeats, cut into other blocks, training items as queries.

What a method must not care about is tried on these views instead of on a second pass of gradients: noise may belong
to an item's index, and then an item's features do change where the index does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import QueryFeatures, Rows, TrainFeatures

Index = NDArray[np.int64]
BLOCK = 5
"""Items in a block of a view: few, so that several blocks pass by."""


class GatheredRows:
    """Some rows of others, in any order and with repeats, as `attrbench.contracts.feature.Rows`.

    Args:
        rows: the others.
        index: [n] which of them.
    """

    def __init__(self, rows: Rows, index: Index) -> None:
        self._rows = rows
        self._index = index
        self.count = len(index)
        self.width = rows.width
        self.row_bytes = rows.row_bytes
        self.norms: NDArray[np.float32] = rows.norms[index]

    def take(self, items: Index) -> NDArray[np.float32]:
        """[len(items), T, v] rows of these items."""
        return self._rows.take(self._index[items])

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yields (index of the first item, [items, T, v] rows) in item order."""
        for first in range(0, self.count, BLOCK):
            yield first, self._rows.take(self._index[first : first + BLOCK])


def gathered_train(train: TrainFeatures, index: Index) -> TrainFeatures:
    """The training items at `index`."""
    return replace(
        train,
        count=len(index),
        rows=None if train.rows is None else GatheredRows(train.rows, index),
        gram=None if train.gram is None else train.gram[np.ix_(index, index)],
        outputs=None if train.outputs is None else train.outputs[index],
        images=None if train.images is None else train.images[index],
        parts=tuple(gathered_train(part, index) for part in train.parts),
    )


def gathered_products(query: QueryFeatures, index: Index) -> QueryFeatures:
    """The same queries, whose products are those with the training items at `index`."""
    products, cross = query.products, query.cross
    if products is not None:
        share = len(index) / products.values.shape[1]
        products = replace(
            products,
            values=products.values[:, index],
            train_norms=products.train_norms[index],
            bytes_if_kept=round(products.bytes_if_kept * share),
        )
    cross = None if cross is None else cross[:, index]
    parts = tuple(gathered_products(part, index) for part in query.parts)
    return replace(query, products=products, cross=cross, parts=parts)


def chosen_queries(query: QueryFeatures, index: Index) -> QueryFeatures:
    """The queries at `index`, in that order."""
    products = query.products
    if products is not None:
        products = replace(products, values=products.values[index], query_norms=products.query_norms[index])
    return replace(
        query,
        ids=query.ids[index],
        rows=None if query.rows is None else query.rows[index],
        norms=None if query.norms is None else query.norms[index],
        outputs=None if query.outputs is None else query.outputs[index],
        images=None if query.images is None else query.images[index],
        products=products,
        cross=None if query.cross is None else query.cross[index],
        parts=tuple(chosen_queries(part, index) for part in query.parts),
    )


def items_as_queries(train: TrainFeatures, query: QueryFeatures) -> QueryFeatures | None:
    """The training items as queries; None where a query is so different a thing that they can't be.

    Args:
        train: the training features.
        query: as the method gets it: says what a query needs; its products must be those of the training items.
    """
    ids = np.arange(train.count)
    rows, norms = None, None
    if query.rows is not None:
        if train.rows is None:
            return None
        rows, norms = train.rows.take(ids), train.rows.norms
        if rows.shape[1:] != query.rows.shape[1:]:
            return None
    if (query.outputs is not None and train.outputs is None) or (query.images is not None and train.images is None):
        return None
    parts = [items_as_queries(*both) for both in zip(train.parts, query.parts, strict=True)]
    if any(part is None for part in parts):
        return None
    return QueryFeatures(
        ids,
        rows=rows,
        norms=norms,
        outputs=None if query.outputs is None else train.outputs,
        images=None if query.images is None else train.images,
        products=query.products,
        cross=None if query.cross is None else train.gram,
        parts=tuple(part for part in parts if part is not None),
    )


def is_empty(features: TrainFeatures) -> bool:
    """Whether nothing is known of the training items but their number."""
    own = (features.rows, features.gram, features.outputs, features.images)
    return all(view is None for view in own) and all(map(is_empty, features.parts))


def has_products(query: QueryFeatures) -> bool:
    """Whether any part of a query is its products with the training items."""
    return query.products is not None or any(map(has_products, query.parts))


def has_cross(query: QueryFeatures) -> bool:
    """Whether any part of a query is its products with the training items beside their Gram matrix."""
    return query.cross is not None or any(map(has_cross, query.parts))
