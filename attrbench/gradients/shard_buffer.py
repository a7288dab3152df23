"""Sheets: the rows of one feature, filled batch by batch until their shard is complete."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attrbench.contracts.feature import GradientProducts, GradientRows, Outputs
from attrbench.store.encoding import encode_rows, relative_error
from attrbench.store.shards import FeatureStore, Timing, Unit

GradientFeature = GradientRows | GradientProducts | Outputs
TINY = 1e-12  # DMin's guard: g / max(|g|, 1e-12)


class ShardBuffer:
    """The shard of one feature that is being filled.

    Args:
        feature: what is kept.
        store: where the shard goes.
        shard: the items.
        steps: number of timesteps, T.
        width: numbers an item and timestep.
        query_norms: [m, T], written beside products.
        facts: of the queries' transform, likewise.
    """

    def __init__(
        self,
        feature: GradientFeature,
        store: FeatureStore,
        shard: Unit,
        steps: int,
        width: int,
        query_norms: NDArray[np.float32] | None = None,
        facts: Mapping[str, float] | None = None,
    ) -> None:
        self.feature = feature
        self._facts = facts or {}
        self.shard = shard
        self._store = store
        self._steps = steps
        self._query_norms = query_norms
        count = shard.last - shard.first
        self._mean = not isinstance(feature, Outputs) and feature.timesteps != "stack"
        self._values = torch.zeros(count, 1 if self._mean else steps, width)
        self._norms = torch.zeros(count, steps)
        self._seconds = [0.0] * count
        self._nonfinite: list[tuple[int, float]] = []

    def file(self, items: Tensor, steps: Tensor, values: Tensor, norms: Tensor, finite: Tensor) -> None:
        """Files the results of a batch; a NaN or infinite gradient leaves zeros.

        Args:
            items: [B] item ids.
            steps: [B] indices into the grid.
            values: [B, width] sketches, gradients, products or outputs, not normalized.
            norms: [B] norms of the whole gradients, 0 where not finite.
            finite: [B].
        """
        rows = items - self.shard.first
        if isinstance(self.feature, GradientRows) and self.feature.timesteps != "mean":
            values = values / norms.clamp_min(TINY).to(values.dtype).unsqueeze(1)
        values = torch.where(finite.unsqueeze(1), values, 0.0).float().cpu()
        if self._mean:
            self._values[:, 0].index_add_(0, rows, values, alpha=1 / self._steps)
        else:
            self._values[rows, steps] = values
        self._norms[rows, steps] = norms.float().cpu()

    def lose(self, item: int, timestep: float) -> None:
        """Names a gradient that was not finite; a mean that it belongs to is lost with it."""
        self._nonfinite.append((item, timestep))

    def time(self, item: int, seconds: float) -> None:
        """Adds to the time that an item took."""
        self._seconds[item - self.shard.first] += seconds

    def commit(self, features_in_pass: int) -> None:
        """Writes the shard."""
        values, norms = self._values, self._norms
        if self._mean:
            values[[item - self.shard.first for item, _ in self._nonfinite]] = 0
        error = 0.0
        if isinstance(self.feature, GradientRows):
            if self._mean:
                norms = torch.linalg.vector_norm(values, dim=2)
                values = values / norms.clamp_min(TINY).unsqueeze(2)
            encoded = encode_rows(values.numpy(), self.feature.dtype)
            error = relative_error(values.numpy(), encoded)
            arrays = {"norms": norms.numpy(), **encoded}
        elif isinstance(self.feature, Outputs):
            arrays = {"outputs": values[:, :, 0].numpy()}
        else:
            assert self._query_norms is not None
            arrays = {"norms": norms.numpy(), "products": values.numpy(), "query_norms": self._query_norms}
        self._store.write(
            self.shard, arrays, Timing(self._seconds, features_in_pass, self._nonfinite, error, self._facts)
        )
