"""Metrics of known origins: ranks and hits of rankings whose values are known, and their random expectation."""

import numpy as np
import pytest

from attrbench.contracts.metric import CUTOFFS, Outcome
from attrbench.metrics.origins import MOST, HitRate, OriginRank


def outcome(scores, relevant):
    scores = np.asarray(scores, np.float32)
    return Outcome(np.argsort(-scores, axis=1, kind="stable")[:, :100], np.asarray(relevant, bool), scores)


def relevant_at(n, *sets):
    found = np.zeros((len(sets), n), bool)
    for query, items in enumerate(sets):
        found[query, list(items)] = True
    return found


def test_the_rank_is_that_of_the_best_placed_origin():
    scores = -np.arange(20.0)[None].repeat(3, 0)
    (rank,) = OriginRank().compute(outcome(scores, relevant_at(20, [0], [4, 9], [19])), CUTOFFS)
    assert rank.values.tolist() == [1, 5, 20]
    one, ten = HitRate().compute(outcome(scores, relevant_at(20, [0], [4, 9], [19])), CUTOFFS)
    assert (one.k, one.values.tolist()) == (1, [1, 0, 0])
    assert (ten.k, ten.values.tolist()) == (10, [1, 1, 0])


def test_random_rankings_reach_the_stated_expectation():
    rng = np.random.default_rng(0)
    drawn = outcome(rng.normal(size=(4000, 30)), relevant_at(30, *[[3, 8, 20]] * 4000))
    for result in [*OriginRank().compute(drawn, CUTOFFS), *HitRate().compute(drawn, CUTOFFS)]:
        error = result.values.std() / np.sqrt(4000)
        assert abs(result.values.mean() - result.expected.mean()) < 4 * error


@pytest.mark.parametrize("sets", [[range(MOST + 1)], [[]]])
def test_families_and_empty_groups_are_no_known_origins(sets):
    ranked = outcome(np.zeros((1, 40)), relevant_at(40, *sets))
    assert OriginRank().compute(ranked, CUTOFFS) == [] == HitRate().compute(ranked, CUTOFFS)


def test_places_that_a_search_left_empty_are_misses():
    found = Outcome(np.array([[-1, -1, 2, -1, -1, -1, -1, -1, -1, -1]]), relevant_at(12, [0]))
    assert [result.values.tolist() for result in HitRate().compute(found, CUTOFFS)] == [[0], [0]]
    assert OriginRank().compute(found, CUTOFFS) == []  # without scores the ranking does not reach all items
