"""The linear datamodeling score (Park et al. 2023, TRAK, eq. 4; methods-spec A2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from attrbench.errors import AttrbenchError


def linear_datamodeling_score(
    scores: NDArray[np.floating], subsets: NDArray[np.bool_], losses: NDArray[np.floating]
) -> NDArray[np.float64]:
    """[m] rank correlation, over subsets S_j, of -loss(q | trained on S_j) with the sum of tau(q, i) over i in S_j.

    Ties have their mean rank. A query whose predictions (or losses) are all equal scores 0.

    Args:
        scores: [m, n]; larger means that the item lowers the query's loss.
        subsets: [J, n] which items each retrained model saw.
        losses: [m, J] losses of the queries under those models, means over training seeds where there are several.

    Raises:
        AttrbenchError: where a number is not finite, or there are fewer than two subsets.
    """
    if len(subsets) < 2:
        raise AttrbenchError(f"the linear datamodeling score needs at least two subsets, not {len(subsets)}")
    for name, values in (("scores", scores), ("losses", losses)):
        if not np.isfinite(values).all():
            query = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise AttrbenchError(f"linear datamodeling score: the {name} of query {query} are not finite")
    predicted = scores.astype(np.float64) @ subsets.astype(np.float64).T
    return np.array([_correlation(mine, -true) for mine, true in zip(predicted, losses, strict=True)])


def _correlation(a: NDArray[np.float64], b: NDArray[np.floating]) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)
