"""The feature images: the pixels of the items, for methods that compare images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.computation import Scope, SplitName, StoreSpec
from attrbench.contracts.feature import Feature, SplitData
from attrbench.contracts.gradient_source import Declaration


class Images(Declaration, Feature[NDArray[np.uint8], NDArray[np.uint8]]):
    """The feature of raw pixels: [n, H, W, C] uint8 of the training set, [m, H, W, C] of the queries."""

    def summary(self) -> str:
        """Return `images`, which names this feature in plans."""
        return "images"

    def computation(self, split: SplitName) -> None:
        """Return None: images come with the task, so nothing is computed."""

    def store(self, split: SplitName, scope: Scope) -> StoreSpec:
        """Return what identifies the images: their hash and number; no file is written."""
        return StoreSpec({"kind": "Images", "items": scope.items_fingerprint(split), "count": scope.count(split)}, 0)

    def train_view(self, data: SplitData) -> NDArray[np.uint8]:
        """Return the [n, H, W, C] uint8 training images."""
        return data.items.images[: data.count]

    def query_view(self, data: SplitData) -> NDArray[np.uint8]:
        """Return the [m, H, W, C] uint8 query images."""
        return data.items.images[: data.count]
