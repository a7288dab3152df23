"""Selection of the training items to remove for a ranking or as a control, and the hubness of a ranking.

All sets are sorted [r] arrays of item indices. Source: Lin et al., "DMin", 2024, supplement, "Effect of removing
influential samples"; controls and hubness are additions to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attrbench.errors import AttrbenchError

Ids = NDArray[np.int64]


def union(ranked: Ids, k: int) -> Ids:
    """Return the items to remove by DMin's rule: all in the top k of any query. `ranked` is [m, depth], -1 for none."""
    top = ranked[:, :k]
    return np.unique(top[top >= 0])


def most_retrieved(ranked: Ids, k: int, count: int, items: int) -> Ids:
    """Return the `count` training items that occur in the top k of the most queries, as items to remove.

    Ties go to the better best rank of any query, then to the smaller index. Items that are in no top k come after all
    that are, by their best rank further down.

    Args:
        ranked: [m, depth] ids, strongest first, -1 for none.
        k: the cut-off.
        count: number of items to return.
        items: number n of training items.

    Raises:
        AttrbenchError: where the ranking contains fewer items.
    """
    best = np.full(items, ranked.shape[1])
    for column in range(ranked.shape[1] - 1, -1, -1):
        ids = ranked[:, column]
        best[ids[ids >= 0]] = column
    named = int((best < ranked.shape[1]).sum())
    if named < count:
        raise AttrbenchError(
            f"{count} items are to be removed and the rankings, {ranked.shape[1]} deep, name only {named}: give the"
            " method a deeper search, or the task a smaller removed=..."
        )
    order = np.lexsort((np.arange(items), best, -in_degree(ranked, k, items)))
    return np.sort(order[:count])


def in_degree(ranked: Ids, k: int, items: int) -> Ids:
    """Return for each training item the number of queries in whose top k it is, [items]."""
    top = ranked[:, :k]
    return np.bincount(top[top >= 0], minlength=items)


def hubness(ranked: Ids, k: int, removed: Ids, items: int) -> dict[str, float]:
    """Compute measures of hubness: whether a few items (hubs) are retrieved for most queries.

    Returns:
        `mean_in_degree` of the removed items; `gini_in_degree` over all items, 0 where each is retrieved equally
        often and near 1 where few get everything; `never_retrieved`, the share of items in no query's top k.
    """
    degree = in_degree(ranked, k, items)
    total, ordered = degree.sum(), np.sort(degree)
    weighted = float((np.arange(1, items + 1) * ordered).sum())
    return {
        "mean_in_degree": float(degree[removed].mean()) if len(removed) else 0.0,
        "gini_in_degree": 2 * weighted / (items * float(total)) - (items + 1) / items if total else 0.0,
        "never_retrieved": float((degree == 0).mean()),
    }


def random_items(count: int, items: int, seed: int) -> Ids:
    """Return `count` of n training items drawn at random without replacement, sorted, as a control of removal."""
    return np.sort(np.random.default_rng(seed).permutation(items)[:count])


def class_matched(removed: Ids, labels: NDArray[np.int64], seed: int) -> Ids:
    """Return random training items with the class counts of those removed, as a control; `labels` is [n]."""
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[: int((labels[removed] == label).sum())]
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))


def highest(values: NDArray[np.float64], count: int) -> Ids:
    """Return the `count` items of largest value, sorted; ties go to the smaller index, NaN comes last."""
    order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
    return np.sort(order[:count])
