"""Collect the rows of one feature batch by batch until their shard is complete and can be written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attrbench.contracts.computation import ShardWriter, Unit
from attrbench.gradients.pass_feature import BufferedRows, PassFeature, PassSetting
from attrbench.store.shards import Timing

TINY = 1e-12
"""Guard of divisions by norms: g / max(|g|, 1e-12), as the released code of DMin (arXiv 2412.08637)."""


class ShardBuffer:
    """A buffer of the rows of one feature's shard, filled batch by batch until it is written to disk.

    Args:
        feature: the feature that the rows belong to.
        store: store that the complete shard is written to.
        shard: range of items.
        setting: parameter layout, number of timesteps and query gradients of the pass.
    """

    def __init__(self, feature: PassFeature[Any, Any], store: ShardWriter, shard: Unit, setting: PassSetting) -> None:
        self.feature = feature
        self.shard = shard
        self._store = store
        self._setting = setting
        count = shard.last - shard.first
        self._values = torch.zeros(count, 1 if feature.is_mean else setting.steps, feature.width(setting))
        self._norms = torch.zeros(count, setting.steps)
        self._seconds = [0.0] * count
        self._nonfinite: list[tuple[int, float]] = []

    def file(self, items: Tensor, steps: Tensor, values: Tensor, norms: Tensor, finite: Tensor) -> None:
        """Add the rows of one batch to the shard; the row of a NaN or infinite gradient stays zero.

        Args:
            items: [B] item indices.
            steps: [B] indices into the grid.
            values: [B, width] sketches, gradients, products or outputs, not normalized.
            norms: [B] norms of the unsketched gradients, 0 where not finite.
            finite: [B] bool, whether the gradient was finite.
        """
        rows = items - self.shard.first
        if self.feature.unit_norm:
            values = values / norms.clamp_min(TINY).to(values.dtype).unsqueeze(1)
        values = torch.where(finite.unsqueeze(1), values, 0.0).float().cpu()
        if self.feature.is_mean:
            self._values[:, 0].index_add_(0, rows, values, alpha=1 / self._setting.steps)
        else:
            self._values[rows, steps] = values
        self._norms[rows, steps] = norms.float().cpu()

    def lose(self, item: int, timestep: float) -> None:
        """Record that a gradient was not finite; for means over timesteps the whole row is set to zero."""
        self._nonfinite.append((item, timestep))

    def time(self, item: int, seconds: float) -> None:
        """Add `seconds` to the computing time recorded for an item."""
        self._seconds[item - self.shard.first] += seconds

    def commit(self, features_in_pass: int) -> None:
        """Write the complete shard to its store, with the number of features that its pass computed."""
        if self.feature.is_mean:
            self._values[[item - self.shard.first for item, _ in self._nonfinite]] = 0
        content = self.feature.shard_content(BufferedRows(self._values, self._norms, self._setting))
        timing = Timing(
            self._seconds, features_in_pass, self._nonfinite, content.row_error, content.facts, content.shared
        )
        self._store.write(self.shard, content.arrays, timing)
