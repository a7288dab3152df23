"""Agreement of two methods: rank correlation, overlap, rank-biased overlap."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from attrbench.metrics.agreement import agreement, joined, overlap, rank_biased_overlap, spearman


def test_spearman_is_scipys_ties_included():
    draws = np.random.default_rng(0)
    for _ in range(5):
        a, b = draws.integers(0, 6, (2, 40)).astype(np.float32)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert math.isnan(spearman(np.zeros(4, np.float32), np.arange(4, dtype=np.float32)))


def test_rank_biased_overlap_is_that_of_the_formula():
    # Depth 2 of (1, 2) and (1, 3), p = .9: X = 1, 1. (1/2) .81 + (.1 / .9)(.9 + (1/2) .81) = .55
    assert rank_biased_overlap([1, 2], [1, 3]) == pytest.approx(0.55)
    assert rank_biased_overlap([4, 2, 7], [4, 2, 7]) == pytest.approx(1.0)
    assert rank_biased_overlap([1, 2], [3, 4]) == 0.0
    assert rank_biased_overlap([1, 2, 3], [2, 1, 3]) == pytest.approx(rank_biased_overlap([2, 1, 3], [1, 2, 3]))


def test_an_early_common_item_counts_more_than_a_late_one():
    assert rank_biased_overlap([1, 2, 3], [1, 5, 6]) > rank_biased_overlap([2, 3, 1], [5, 6, 1])
    assert overlap([1, 2, 3], [1, 5, 6]) == overlap([2, 3, 1], [5, 6, 1]) == pytest.approx(1 / 3)


def test_what_cannot_be_compared_is_none_and_not_part_of_the_mean():
    ids = np.array([[0, 1], [-1, -1]])
    scores = np.array([[3, 2, 1], [1, 1, 1]], np.float32)
    pair = agreement(("a", "b"), (ids, ids), (scores, scores))
    assert pair.of_query(0) == {"spearman": 1.0, "overlap": 1.0, "rbo": pytest.approx(1.0)}
    assert pair.of_query(1) == {"spearman": None, "overlap": None, "rbo": None}
    assert pair.means()["overlap"] == 1.0
    without = agreement(("a", "b"), (ids, ids), (scores, None))
    assert without.means()["spearman"] is None and without.means()["overlap"] == 1.0
    assert len(joined([pair, without]).overlap) == 4 and joined([pair, without]).means()["spearman"] == 1.0
