"""Subsets of a training set on which models are trained for ground truths: random ones, and all without one group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attrbench.errors import UsageError

SubsetKind = Literal["fixed", "bernoulli", "leave-group-out"]


def draw_subset(
    items: int, number: int, seed: int, alpha: float = 0.5, kind: SubsetKind = "fixed"
) -> NDArray[np.int64]:
    """Draw a random subset of the training items, decided by (seed, number) alone; return sorted indices.

    Subsets of a fixed size are what Park et al. (TRAK, 2023, section 3) and Zheng et al. (D-TRAK, 2024) train on; with
    them a constant added to all scores of a query changes no prediction.

    Args:
        items: size of the training set, n.
        number: of the subset, j, counted from 0.
        seed: of all subsets.
        alpha: share of the items.
        kind: `fixed`, round(alpha n) items drawn without replacement; `bernoulli`, each item with probability alpha.

    Returns:
        [k] indices, never empty.
    """
    rng = np.random.default_rng([seed, number])
    if kind == "fixed":
        return np.sort(rng.permutation(items)[: max(1, round(alpha * items))]).astype(np.int64)
    chosen = np.flatnonzero(rng.random(items) < alpha)
    return chosen if len(chosen) else np.array([int(rng.integers(items))])


def leave_groups_out(groups: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return all items, and then all items but those of each group, in the order of the groups' names; sorted indices.

    Args:
        groups: [n] the group of each item; items without one (an empty name) are never left out.

    Raises:
        UsageError: where there are fewer than two groups.
    """
    names, all_items = sorted(set(groups) - {""}), np.arange(len(groups))
    if len(names) < 2:
        raise UsageError(f"leaving a group out needs two groups of training items, and there are {len(names)}")
    member = np.array(groups, dtype=object)
    return [all_items, *(all_items[member != name] for name in names)]


def membership(subsets: list[NDArray[np.int64]], items: int) -> NDArray[np.bool_]:
    """Return a [J, items] bool table that says which training items are in which subset."""
    table = np.zeros((len(subsets), items), bool)
    for row, subset in zip(table, subsets, strict=True):
        row[subset] = True
    return table
