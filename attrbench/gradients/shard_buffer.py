"""The rows of one feature, gathered batch by batch until their shard is complete."""

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
    """The shard of one feature that is being filled.

    Args:
        feature: what is kept.
        store: where the shard goes.
        shard: the items.
        setting: of the pass.
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
        """File the results of a batch; a NaN or infinite gradient leaves zeros.

        Args:
            items: [B] item ids.
            steps: [B] indices into the grid.
            values: [B, width] sketches, gradients, products or outputs, not normalized.
            norms: [B] norms of the whole gradients, 0 where not finite.
            finite: [B].
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
        """Name a gradient that was not finite; a mean that it belongs to is lost with it."""
        self._nonfinite.append((item, timestep))

    def time(self, item: int, seconds: float) -> None:
        """Add to the time that an item took."""
        self._seconds[item - self.shard.first] += seconds

    def commit(self, features_in_pass: int) -> None:
        """Write the shard."""
        if self.feature.is_mean:
            self._values[[item - self.shard.first for item, _ in self._nonfinite]] = 0
        content = self.feature.shard_content(BufferedRows(self._values, self._norms, self._setting))
        timing = Timing(self._seconds, features_in_pass, self._nonfinite, content.row_error, content.facts)
        self._store.write(self.shard, content.arrays, timing)
