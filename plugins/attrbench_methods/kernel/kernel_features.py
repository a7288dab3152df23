"""Features of the ridge kernel: sketched mean gradients, or the Gram matrix of whole ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.features.gradient_gram import GradientGram
from attrbench.features.gradient_rows import GradientRows
from attrbench.search.exact import rows_bytes
from attrbench.search.gram_blocks import cross_gram_blocks, gram_blocks

Matrix = NDArray[np.float64]
Cross = Callable[[QueryFeatures], Matrix]


class KernelFeatures(ABC):
    """Mean gradients phi of training items and queries, through the inner products that a kernel needs."""

    @abstractmethod
    def request(self) -> FeatureRequest:
        """Return the request of the features that must be computed."""

    @abstractmethod
    def gram(self, train: TrainFeatures) -> Matrix:
        """Return the [n, n] products Phi Phi^T."""

    @abstractmethod
    def norms(self, train: TrainFeatures) -> Matrix:
        """Return the [n] norms |Phi_i|."""

    @abstractmethod
    def cross(self, train: TrainFeatures) -> Cross:
        """Return the function from queries to the [m, n] products phi_q Phi^T."""

    @abstractmethod
    def row_bytes(self, train: TrainFeatures) -> int:
        """Return the bytes of the training items' rows that a new query needs."""

    @abstractmethod
    def bytes_if_kept(self, train: TrainFeatures) -> int | None:
        """Return the bytes that all whole gradients would take, where none is kept."""


@dataclass(frozen=True)
class SketchedMeans(KernelFeatures):
    """Sketched mean gradients.

    Attributes:
        rows: of the training items.
        query_rows: of the queries.
    """

    rows: GradientRows
    query_rows: GradientRows

    def request(self) -> FeatureRequest:
        """Return the request of the rows."""
        return FeatureRequest((self.rows,), (self.query_rows,))

    def gram(self, train: TrainFeatures) -> Matrix:
        """Return the [n, n] products of raw rows."""
        return gram_blocks(train[self.rows], raw=True)[""]

    def norms(self, train: TrainFeatures) -> Matrix:
        """Return the [n] norms of the sketches."""
        return train[self.rows].norms[:, 0].astype(np.float64)

    def cross(self, train: TrainFeatures) -> Cross:
        """Return the function from queries to their products with the stored rows."""
        rows, feature = train[self.rows], self.query_rows
        return lambda query: cross_gram_blocks(query[feature].raw, rows, raw=True)[""]

    def row_bytes(self, train: TrainFeatures) -> int:
        """Return the bytes of rows and norms."""
        return rows_bytes(train[self.rows], normalize=False)

    def bytes_if_kept(self, train: TrainFeatures) -> None:
        """Return None: the rows are kept."""


@dataclass(frozen=True)
class WholeMeans(KernelFeatures):
    """Whole mean gradients, none of which is kept.

    Attributes:
        feature: Gram matrix of the means, and their products with the queries.
    """

    feature: GradientGram

    def request(self) -> FeatureRequest:
        """Return the request of the Gram matrix."""
        return FeatureRequest.both(self.feature)

    def gram(self, train: TrainFeatures) -> Matrix:
        """Return the [n, n] Gram matrix."""
        return train[self.feature].matrix

    def norms(self, train: TrainFeatures) -> Matrix:
        """Return the [n] square roots of its diagonal."""
        return np.sqrt(np.diagonal(train[self.feature].matrix))

    def cross(self, train: TrainFeatures) -> Cross:
        """Return the function that looks up the queries' products, computed with the matrix."""
        feature = self.feature
        return lambda query: query[feature]

    def row_bytes(self, train: TrainFeatures) -> int:
        """Return 0: nothing is kept of an item."""
        return 0

    def bytes_if_kept(self, train: TrainFeatures) -> int:
        """Return four bytes for each item and parameter."""
        return 4 * train.count * sum(train[self.feature].sizes.values())
