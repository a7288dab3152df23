"""Gradient features of the ridge kernel methods: stored sketches of mean gradients, or a Gram matrix of whole ones."""

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
    """Contract for the mean gradients that a ridge kernel needs, given only through their inner products."""

    @abstractmethod
    def request(self) -> FeatureRequest:
        """Return the request that tells the framework which gradient features to compute for the kernel."""

    @abstractmethod
    def gram(self, train: TrainFeatures) -> Matrix:
        """Return the [n, n] Gram matrix Phi Phi^T, the inner products of the training items' mean gradients."""

    @abstractmethod
    def norms(self, train: TrainFeatures) -> Matrix:
        """Return the [n] norms |Phi_i| of the training items' mean gradients."""

    @abstractmethod
    def cross(self, train: TrainFeatures) -> Cross:
        """Return a function from queries to [m, n] inner products of their mean gradients with the training ones."""

    @abstractmethod
    def row_bytes(self, train: TrainFeatures) -> int:
        """Return the bytes of training gradients that must stay stored to score a new query."""

    @abstractmethod
    def bytes_if_kept(self, train: TrainFeatures) -> int | None:
        """Return the bytes that storing all whole gradients would take; None where rows are stored."""


@dataclass(frozen=True)
class SketchedMeans(KernelFeatures):
    """Kernel features from stored sketches of mean gradients, one row per item.

    Attributes:
        rows: of the training items.
        query_rows: of the queries.
    """

    rows: GradientRows
    query_rows: GradientRows

    def request(self) -> FeatureRequest:
        """Request the sketched mean gradients of the training items and of the queries."""
        return FeatureRequest((self.rows,), (self.query_rows,))

    def gram(self, train: TrainFeatures) -> Matrix:
        """Return the [n, n] inner products of the training items' stored sketches, scaled back from unit norm."""
        return gram_blocks(train[self.rows], raw=True)[""]

    def norms(self, train: TrainFeatures) -> Matrix:
        """Return the [n] norms of the training items' sketched mean gradients."""
        return train[self.rows].norms[:, 0].astype(np.float64)

    def cross(self, train: TrainFeatures) -> Cross:
        """Return a function from queries to [m, n] inner products of their sketches with the training sketches."""
        rows, feature = train[self.rows], self.query_rows
        return lambda query: cross_gram_blocks(query[feature].raw, rows, raw=True)[""]

    def row_bytes(self, train: TrainFeatures) -> int:
        """Return the bytes of the training items' stored sketches and norms, which a new query needs."""
        return rows_bytes(train[self.rows], normalize=False)

    def bytes_if_kept(self, train: TrainFeatures) -> None:
        """Return None: the sketches are stored, so there is no hypothetical size to report."""


@dataclass(frozen=True)
class WholeMeans(KernelFeatures):
    """Kernel features from the exact Gram matrix of whole mean gradients, none of which is stored.

    Attributes:
        feature: Gram matrix of the means, and their products with the queries.
    """

    feature: GradientGram

    def request(self) -> FeatureRequest:
        """Request the Gram matrix of whole mean gradients, with the queries' inner products."""
        return FeatureRequest.both(self.feature)

    def gram(self, train: TrainFeatures) -> Matrix:
        """Return the [n, n] Gram matrix of the training items' whole mean gradients."""
        return train[self.feature].matrix

    def norms(self, train: TrainFeatures) -> Matrix:
        """Return the [n] norms of the whole mean gradients: square roots of the Gram matrix's diagonal."""
        return np.sqrt(np.diagonal(train[self.feature].matrix))

    def cross(self, train: TrainFeatures) -> Cross:
        """Return a function that looks up the queries' [m, n] inner products, computed with the Gram matrix."""
        feature = self.feature
        return lambda query: query[feature]

    def row_bytes(self, train: TrainFeatures) -> int:
        """Return 0: no gradient of a training item is stored, only inner products."""
        return 0

    def bytes_if_kept(self, train: TrainFeatures) -> int:
        """Return the bytes that all whole training gradients would take: 4 per item and parameter."""
        return 4 * train.count * sum(train[self.feature].sizes.values())
