"""The feature prompts: the captions of training items and the prompts of queries, for methods that read text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.computation import Scope, SplitName, StoreSpec
from attrbench.contracts.feature import Feature, SplitData
from attrbench.contracts.gradient_source import Declaration


class Prompts(Declaration, Feature[NDArray[np.str_], NDArray[np.str_]]):
    """The feature of texts: [n] captions of the training set, [m] prompts of the queries; empty without one."""

    def summary(self) -> str:
        """Return `prompts`, which names this feature in plans."""
        return "prompts"

    def computation(self, split: SplitName) -> None:
        """Return None: prompts come with the task, so nothing is computed."""

    def store(self, split: SplitName, scope: Scope) -> StoreSpec:
        """Return what identifies the prompts: the items' hash and number; no file is written."""
        return StoreSpec({"kind": "Prompts", "items": scope.items_fingerprint(split), "count": scope.count(split)}, 0)

    def train_view(self, data: SplitData) -> NDArray[np.str_]:
        """Return the [n] captions of the training items."""
        return np.array(data.items.prompts[: data.count], dtype=np.str_)

    def query_view(self, data: SplitData) -> NDArray[np.str_]:
        """Return the [m] prompts of the queries."""
        return np.array(data.items.prompts[: data.count], dtype=np.str_)
