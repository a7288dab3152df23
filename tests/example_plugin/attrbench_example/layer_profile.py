"""The method `layer-profile`: items whose gradient lies in the same layers as the query's count most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.contracts.method import Context, ExhaustiveScorer, Method, StateSize
from attrbench.contracts.options import Options
from attrbench_example.layer_norms import LayerNorms


class LayerProfileOptions(Options):
    """Options of `layer-profile`."""

    timesteps: int = Field(5, ge=1, le=1000)
    """Number of timesteps."""


class LayerProfile(Method[LayerProfileOptions]):
    """tau(q, i) = cos(n(q), n(i)), where n(x) holds the norm of the loss gradient in each layer at each timestep."""

    name = "layer-profile"
    summary = "cosine of how the gradient's norm is spread over layers and timesteps"
    citation = "none; an example"
    Options = LayerProfileOptions

    @property
    def norms(self) -> LayerNorms:
        """The feature, a kind of this package's own."""
        return LayerNorms(source=GradientSource(grid=TimestepGrid(steps=self.options.timesteps)))

    def features(self) -> FeatureRequest:
        """The norms of both sides."""
        return FeatureRequest.both(self.norms)

    def fit(self, train: TrainFeatures, context: Context) -> ProfileScorer:
        """Keep the profiles."""
        return ProfileScorer(profiles(train[self.norms]), self.norms)


class ProfileScorer(ExhaustiveScorer):
    """Scores by the cosine of profiles.

    Args:
        train: [n, T * L] profiles of unit norm.
        feature: what the queries have.
    """

    def __init__(self, train: NDArray[np.float32], feature: LayerNorms) -> None:
        self._train = train
        self._feature = feature

    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the [m, n] cosines."""
        return profiles(query[self._feature]) @ self._train.T

    def size(self) -> StateSize:
        """Return the bytes of the profiles."""
        return StateSize(rows=self._train.nbytes)


def profiles(norms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return [n, T * L] rows of unit norm, zeros where there is no gradient, of [n, T, L] norms."""
    rows = norms.reshape(len(norms), -1)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(length, 1e-12)).astype(np.float32)
