"""Scores and rankings that are not of the training items are refused, in a line that says what was given."""

from types import SimpleNamespace

import numpy as np
import pytest

from attrbench.contracts.method import ExhaustiveScorer, StateSize
from attrbench.contracts.ranking import Ranking
from attrbench.errors import AttrbenchError
from attrbench.evaluation.answers import check_ranking, checked_scores

QUERIES = SimpleNamespace(ids=[0, 1])
ITEMS = 5
SCORES = np.arange(10, dtype=np.float32).reshape(2, ITEMS)


class Answering(ExhaustiveScorer):
    def __init__(self, answer):
        self.answer = answer

    def scores(self, query):
        return self.answer

    def size(self):
        return StateSize(shared=0)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (SCORES[:, :4], r"float32 \[2, 4\]"),
        (np.hstack([SCORES, SCORES]), r"float32 \[2, 10\]"),
        (np.vstack([SCORES, SCORES]), r"float32 \[4, 5\]"),
        (SCORES.T, r"float32 \[5, 2\]"),
        (SCORES[0], r"float32 \[5\]"),
        (SCORES.astype(np.int64), r"int64 \[2, 5\]"),
        (SCORES.astype(object), r"object \[2, 5\]"),
    ],
)
def test_scores_of_another_shape_or_kind_are_refused(answer, told):
    with pytest.raises(AttrbenchError, match=rf"the method's scores are {told} instead of float32 \[2, 5\]"):
        checked_scores(Answering(answer), QUERIES, ITEMS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_of_any_precision_are_taken_as_float32(dtype):
    found = checked_scores(Answering(SCORES.astype(dtype)), QUERIES, ITEMS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, SCORES)


def ranking(ids, scores=None):
    ids = np.array(ids)
    return Ranking(ids, np.zeros(ids.shape, np.float32) if scores is None else np.array(scores))


def test_a_ranking_of_training_items_with_places_left_empty_is_taken():
    check_ranking(ranking([[4, 0, -1], [2, -1, -1]]), 2, ITEMS)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (ranking([[0, 1]]), r"ids int64 \[1, 2\]"),
        (ranking([0, 1]), r"ids int64 \[2\]"),
        (ranking([[0.0, 1.0], [0.0, 1.0]]), "ids float64"),
        (ranking([[0, 1], [0, 1]], [0.0]), r"scores \[1\] instead of"),
        (ranking([[0, 1], [0, 5]]), "ranks item 5 for query 1, and there are 5 training items"),
        (ranking([[0, -2], [0, 1]]), "ranks item -2 for query 0"),
        (ranking([[0, 1], [3, 3]]), "ranks item 3 twice for query 1"),
    ],
)
def test_a_ranking_of_other_items_or_of_one_twice_is_refused(found, told):
    with pytest.raises(AttrbenchError, match=told):
        check_ranking(found, 2, ITEMS)
