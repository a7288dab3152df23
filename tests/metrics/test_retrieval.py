from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.contracts.metric import Outcome
from attrbench.metrics.retrieval import AnnRecall, AveragePrecision, DetectionRate, Recall


def outcome(scores, relevant, **kwargs):
    scores, relevant = np.atleast_2d(np.asarray(scores, np.float32)), np.atleast_2d(np.asarray(relevant, bool))
    return Outcome(np.argsort(-scores, axis=1, kind="stable"), relevant, scores, **kwargs)


def perfect(group_size, n):
    relevant = np.arange(n) < group_size
    return outcome(relevant.astype(float), relevant)


def one(metric, result, k=None):
    (entry,) = metric.compute(result, [] if k is None else [k])
    assert entry.k == k
    return entry


@given(st.integers(0, 20), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_perfect_ranking_reaches_the_ceiling_of_group_size_over_k(group_size, k):
    entry = one(DetectionRate(), perfect(group_size, 20), k)
    assert entry.values[0] == entry.ceiling[0] == min(group_size, k) / k


@pytest.mark.parametrize("metric", [DetectionRate, Recall, AveragePrecision])
def test_without_groups_nothing_is_compared(metric):
    ranked = np.arange(20)[None]
    assert metric().compute(Outcome(ranked, None, np.zeros((1, 20), np.float32)), [5]) == []


def test_detection_at_5_of_a_class_of_three_is_three_fifths():
    assert one(DetectionRate(), perfect(3, 50), 5).values.tolist() == [0.6]


@given(st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_perfect_ranking_reaches_the_ceiling_of_recall(group_size, k):
    entry = one(Recall(), perfect(group_size, 20), k)
    assert entry.values[0] == entry.ceiling[0] == min(group_size, k) / group_size


def test_worked_example():
    result = outcome([9, 8, 7, 6, 5], [1, 0, 1, 0, 1])
    assert one(DetectionRate(), result, 3).values[0] == pytest.approx(2 / 3)
    assert one(Recall(), result, 3).values[0] == pytest.approx(2 / 3)
    assert one(DetectionRate(), result, 2).values[0] == pytest.approx(1 / 2)
    assert one(AveragePrecision(), result).values[0] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


@pytest.mark.parametrize("metric", [DetectionRate(), Recall()])
def test_permuted_labels_give_the_expected_value_on_average(metric):
    rng, n, group_size, k = np.random.default_rng(0), 40, 8, 5
    relevant = np.stack([rng.permutation(n) < group_size for _ in range(4000)])
    entry = one(metric, outcome(np.tile(np.arange(n), (4000, 1)), relevant), k)
    assert entry.expected[0] == pytest.approx(group_size / n if isinstance(metric, DetectionRate) else k / n)
    error = 4 * entry.values.std() / np.sqrt(4000)
    assert abs(entry.values.mean() - entry.expected[0]) < error < 0.02


@pytest.mark.parametrize(("n", "group_size"), [(1, 1), (4, 1), (5, 2), (6, 3), (6, 6)])
def test_expected_average_precision_is_the_mean_over_all_rankings(n, group_size):
    scores = np.array(list(permutations(range(n))))
    entry = one(AveragePrecision(), outcome(scores, np.tile(np.arange(n) < group_size, (len(scores), 1))))
    assert entry.expected[0] == pytest.approx(entry.values.mean(), rel=1e-12)


def test_average_precision_agrees_with_scikit_learn():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(1)
    scores, relevant = rng.normal(size=(5, 30)), rng.random((5, 30)) < 0.3
    values = one(AveragePrecision(), outcome(scores, relevant)).values
    assert values == pytest.approx([average_precision_score(r, s) for r, s in zip(relevant, scores, strict=True)])


def test_average_precision_needs_scores():
    assert AveragePrecision().compute(Outcome(np.array([[0, 1]]), np.ones((1, 2), bool)), [1]) == []


@pytest.mark.parametrize("metric", [DetectionRate(), Recall(), AveragePrecision()])
def test_query_without_relatives_counts_zero(metric):
    entry = metric.compute(outcome([3, 2, 1], [0, 0, 0]), [2])[0]
    assert entry.values.tolist() == [0]


def test_missing_items_are_misses():
    relevant = np.array([[False, False, False, True]])  # -1 must not be read as the last item, nor as the first
    assert one(DetectionRate(), Outcome(np.array([[3, -1, -1]]), relevant), 3).values[0] == pytest.approx(1 / 3)
    assert one(Recall(), Outcome(np.array([[-1, -1, -1]]), relevant[:, ::-1]), 3).values[0] == 0


def test_constant_scores_are_judged_by_the_tie_rule():
    result = outcome(np.zeros(6), [1, 1, 0, 0, 0, 1])
    assert one(DetectionRate(), result, 2).values.tolist() == [1.0]
    assert one(AveragePrecision(), result).values[0] == pytest.approx((1 + 1 + 3 / 6) / 3)


@pytest.mark.parametrize("metric", [DetectionRate(), Recall(), AnnRecall()])
def test_cutoffs_beyond_the_ranking_are_left_out(metric):
    ranked = np.array([[2, 1, 0]])
    result = Outcome(ranked, np.ones((1, 9), bool), exact_ranked=ranked)
    assert [entry.k for entry in metric.compute(result, [1, 3, 5])] == [1, 3]


def test_ann_recall_counts_what_both_found_in_any_order():
    found = np.array([[1, 2, 3, 4], [9, 8, -1, -1], [4, 3, 2, 1]])
    exact = np.array([[2, 1, 7, 3], [9, 8, 7, 6], [1, 2, 3, 4]])
    result = Outcome(found, np.zeros((3, 10), bool), exact_ranked=exact)
    assert one(AnnRecall(), result, 2).values.tolist() == [1.0, 1.0, 0.0]
    assert one(AnnRecall(), result, 4).values.tolist() == [0.75, 0.5, 1.0]


def test_ann_recall_is_for_approximate_searches_only():
    assert AnnRecall().compute(perfect(2, 5), [1]) == []
