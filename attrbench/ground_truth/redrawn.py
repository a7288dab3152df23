"""Measurement of how far each query's picture moves when a retrained model draws it from the same noise and prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.ground_truth import ComparesPictures, Measurement
from attrbench.contracts.task import Items, OpenTask
from attrbench.errors import AttrbenchError
from attrbench.ground_truth.retraining import draw

PIXELS, FEATURES = "pixels", "features"


@dataclass(frozen=True)
class RedrawnQueries(Measurement):
    """A measurement of a retrained model: distance of each query from the picture that it draws in the query's place.

    The picture is drawn from the query's own seed and prompt, as the task's model drew the query. Returns
    {"pixels": [m]}, root of the mean squared difference of pixels in [0, 1]; and, where the task has features to
    compare pictures by (`ComparesPictures`), {"features": [m]}, one minus their cosine.
    """

    def identity(self, opened: OpenTask) -> object:
        """Return what decides the distances (the queries and the features), for the measurement's cache key."""
        features = opened.picture_features.fingerprint if isinstance(opened, ComparesPictures) else None
        return ["redrawn queries", opened.queries.fingerprint, features]

    def measure(self, denoiser: Denoiser, opened: OpenTask) -> Mapping[str, NDArray[Any]]:
        """Return the distances by name ("pixels" and perhaps "features"), [m] float32 each.

        Raises:
            AttrbenchError: where the queries have no seeds to be drawn from.
        """
        queries = opened.queries
        drawn = redrawn(denoiser, queries)
        distances = {PIXELS: pixel_distance(drawn, queries.images)}
        if isinstance(opened, ComparesPictures):
            features = opened.picture_features.features
            distances[FEATURES] = cosine_distance(features(drawn), features(np.asarray(queries.images)))
        return distances


def redrawn(denoiser: Denoiser, queries: Items) -> NDArray[np.uint8]:
    """Return the pictures that a model draws from the queries' own prompts and seeds, [m, H, W, C] uint8.

    Raises:
        AttrbenchError: where the queries have no seeds.
    """
    if queries.seeds is None:
        raise AttrbenchError("the queries were not drawn by the model: they can't be drawn again by another")
    return draw(denoiser, queries.seeds, queries.prompts)


def pixel_distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the root of the mean squared difference of matching pictures' pixels in [0, 1], [m] float32."""
    difference = (a.astype(np.float64) - b.astype(np.float64)) / 255
    distance: NDArray[np.float32] = np.sqrt(np.square(difference).mean(axis=(1, 2, 3))).astype(np.float32)
    return distance


def cosine_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return one minus the cosine of matching rows of two [m, d] arrays, [m] float32; 1 where a row is zero."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    scale = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    cosine = np.divide((x * y).sum(axis=1), scale, out=np.zeros(len(x)), where=scale > 0)
    distance: NDArray[np.float32] = (1 - cosine).astype(np.float32)
    return distance
