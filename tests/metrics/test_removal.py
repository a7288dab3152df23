import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attrbench.errors import AttrbenchError
from attrbench.metrics.removal import class_matched, highest, hubness, in_degree, most_retrieved, random_items, union

RANKED = np.array([[3, 1, 0, 5], [1, 4, 3, 0], [3, 4, 2, -1]])
"""Three queries over six items. Top 2: item 3 twice, 1 twice, 4 twice; 0, 2 and 5 never."""


def test_the_union_is_what_any_query_retrieves_and_empty_places_count_for_nothing():
    assert union(RANKED, 2).tolist() == [1, 3, 4]
    assert union(RANKED, 4).tolist() == [0, 1, 2, 3, 4, 5]
    assert union(np.array([[-1, -1], [2, -1]]), 2).tolist() == [2]


def test_the_most_retrieved_come_by_queries_then_best_rank_then_index():
    assert in_degree(RANKED, 2, 6).tolist() == [0, 2, 0, 2, 2, 0]
    assert most_retrieved(RANKED, 2, 2, 6).tolist() == [1, 3]  # 4 was retrieved as often, never first
    assert most_retrieved(RANKED, 2, 3, 6).tolist() == [1, 3, 4]
    assert most_retrieved(RANKED, 2, 4, 6).tolist() == [0, 1, 3, 4]  # 0 and 2 both at rank 3: the smaller index
    assert most_retrieved(RANKED, 1, 1, 6).tolist() == [3]  # first for two queries; 1 for one
    assert most_retrieved(np.array([[0, 1], [1, 2], [2, 0]]), 2, 1, 3).tolist() == [0]  # equal in everything


def test_a_ranking_that_names_too_few_is_refused_with_what_to_do():
    with pytest.raises(AttrbenchError, match="7 items are to be removed and the rankings, 4 deep, name only 6"):
        most_retrieved(RANKED, 2, 7, 8)


@st.composite
def rankings(draw):
    items, queries = draw(st.integers(2, 12)), draw(st.integers(1, 6))
    rows = [draw(st.permutations(range(items))) for _ in range(queries)]
    return np.array(rows), draw(st.integers(1, items)), items


@given(rankings(), st.data())
def test_every_ranking_gives_the_number_asked_for_and_all_of_the_union_first(case, data):
    ranked, k, items = case
    count = data.draw(st.integers(0, items))
    removed = most_retrieved(ranked, k, count, items)
    assert len(np.unique(removed)) == count
    either = union(ranked, k)
    assert set(removed) <= set(either) if count <= len(either) else set(either) <= set(removed)
    degree = in_degree(ranked, k, items)
    if 0 < count < items:
        assert degree[removed].min() >= np.delete(degree, removed).max()


def test_hubness_by_hand():
    facts = hubness(RANKED, 2, np.array([1, 3]), 6)
    assert facts["mean_in_degree"] == 2
    assert facts["never_retrieved"] == pytest.approx(0.5)
    assert facts["gini_in_degree"] == pytest.approx(0.5)  # half of the items share everything equally
    even = hubness(np.array([[0, 1], [2, 3]]), 2, np.array([0]), 4)
    assert even == {"mean_in_degree": 1, "gini_in_degree": pytest.approx(0), "never_retrieved": 0}
    hub = hubness(np.zeros((50, 1), np.int64), 1, np.array([0]), 100)
    assert hub["gini_in_degree"] == pytest.approx(0.99)
    assert hub["mean_in_degree"] == 50


@given(st.integers(0, 40), st.integers(0, 5))
def test_random_items_are_as_many_as_asked_for(count, seed):
    ids = random_items(count, 40, seed)
    assert len(set(ids.tolist())) == count
    assert ids.tolist() == sorted(ids.tolist()) == random_items(count, 40, seed).tolist()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.data())
def test_class_matched_items_have_the_histogram_of_the_removed(labels, data):
    labels = np.array(labels)
    removed = np.array(sorted(data.draw(st.sets(st.integers(0, len(labels) - 1)))), np.int64)
    matched = class_matched(removed, labels, data.draw(st.integers(0, 3)))
    assert len(np.unique(matched)) == len(removed)
    assert np.bincount(labels[matched], minlength=4).tolist() == np.bincount(labels[removed], minlength=4).tolist()


def test_other_seeds_draw_other_items():
    assert random_items(20, 100, 0).tolist() != random_items(20, 100, 1).tolist()
    labels = np.arange(100) % 5
    assert class_matched(np.arange(20), labels, 0).tolist() != class_matched(np.arange(20), labels, 1).tolist()


def test_the_highest_are_taken_ties_to_the_smaller_index_and_nothing_drawn_last():
    values = np.array([1.0, np.nan, 3.0, 3.0, 2.0])
    assert highest(values, 1).tolist() == [2]
    assert highest(values, 3).tolist() == [2, 3, 4]
    assert highest(values, 5).tolist() == [0, 1, 2, 3, 4]
