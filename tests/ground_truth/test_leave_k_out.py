"""The ground truth `leave-k-out`: what is left out for whom, which models are shared, and what is measured of them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attrbench.contracts.metric import Outcome
from attrbench.errors import AttrbenchError, Unavailable
from attrbench.ground_truth.leave_k_out import LeaveKOut, LeaveKOutOptions, chosen_queries
from attrbench.ground_truth.losses import QueryLosses
from attrbench.ground_truth.retraining import measured, run_trainings, use_opened_task
from tests.ground_truth.tiny_trainable import QUERIES, TRAIN, setting
from tests.tasks.tiny_removal import no_stage

K, SEEDS = 4, 2
OPTIONS = {"k": K, "queries": 3, "seeds": SEEDS, "steps": 3, "draws": 1}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return setting(tmp_path_factory.mktemp("leave-k-out"))


def truth(opened, **options):
    return LeaveKOut(LeaveKOutOptions(**{**OPTIONS, **options})).open(opened)


def outcome(seed=0):
    scores = np.random.default_rng(seed).normal(size=(QUERIES, TRAIN)).astype(np.float32)
    return Outcome(np.argsort(-scores, axis=1)[:, :K], None, scores)


def left_out(job):
    return set() if job.subset is None else set(range(TRAIN)) - set(job.subset)


def test_each_query_has_models_without_its_own_top_and_random_ones_are_shared(opened):
    asked, answer = truth(opened), outcome()
    jobs = asked.jobs(answer)
    queries = [0, 1, 2]
    tops = [set(answer.ranked[query].tolist()) for query in queries]
    assert [left_out(job) for job in jobs if left_out(job) in tops] == tops * SEEDS
    others = [left_out(job) for job in jobs if left_out(job) not in tops]
    groups = {opened.opened.queries.groups[query] for query in queries}
    assert len(others) == SEEDS * (2 + len(groups)) and len(jobs) == SEEDS * (len(queries) + 2 + len(groups))
    matched = [o for o in others if o and len({opened.opened.train.groups[item] for item in o}) == 1]
    assert len(matched) >= SEEDS * len(groups) and all(len(o) in (0, K) for o in others)
    again = truth(opened).jobs(outcome(seed=1))
    assert len(set(jobs) & set(again)) == len(others)


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=30), st.integers(1, 30))
def test_queries_are_of_all_groups_alike_and_fewer_of_them_are_a_part_of_more(groups, count):
    chosen = chosen_queries(groups, count)
    assert len(chosen) == min(count, len(groups)) and set(chosen) <= set(chosen_queries(groups, count + 1))
    per_group = Counter(groups[query] for query in chosen)
    left = {groups[query] for query in set(range(len(groups))) - set(chosen)}
    assert all(per_group[group] >= max(per_group.values()) - 1 for group in left)


def test_a_method_that_names_the_same_items_trains_nothing_new(opened):
    answer = outcome()
    turned = Outcome(answer.ranked[:, ::-1].copy(), None, answer.scores)
    assert set(truth(opened).jobs(answer)) == set(truth(opened).jobs(turned))


def test_what_is_measured_is_the_rise_over_the_same_groups_random_removal(opened):
    asked, answer = truth(opened), outcome()
    use_opened_task(opened)
    run_trainings(asked.jobs(answer), no_stage)
    effect = asked.measure(answer, 0, no_stage)
    results = {result.name: result for result in effect.metrics}
    assert set(results) == {f"leave-k-out{end}@{K}" for end in ("", "-over-random", "-pixels", "-features")}
    main = results[f"leave-k-out@{K}"]
    loss = QueryLosses(3, 1)
    job = next(job for job in asked.jobs(answer) if left_out(job) == set(answer.ranked[2].tolist()) and job.seed == 1)
    folder = opened.task.train(np.array(job.subset), 1, opened.workspace.cache / "x", opened.workspace.device, print)
    again = loss.losses(opened.task.trained(folder, opened.workspace), opened.opened.queries)
    assert measured(job)["losses"] == pytest.approx(again, rel=1e-5)
    assert len(main.per_query) == 3 and main.low < main.value < main.high
    assert effect.facts["leave_k_out_detectable"] > 0
    rise = effect.facts["leave_k_out_rise"] - effect.facts["leave_k_out_rise_same_group"]
    assert main.value == pytest.approx(rise)


def test_too_many_items_or_too_short_a_ranking_are_refused_in_one_line(opened):
    with pytest.raises(Unavailable, match="k=9 items can't be left out: of 24 training items 8 are of the group"):
        truth(opened, k=9)
    answer = outcome()
    answer.ranked[2, 1] = -1
    with pytest.raises(AttrbenchError, match="the ranking of query 2 names 3 items, and 4 are to be left out"):
        truth(opened).jobs(answer)


def test_a_query_without_a_group_has_nothing_to_be_compared_with(opened):
    queries = replace(opened.opened.queries, groups=["", *opened.opened.queries.groups[1:]])
    bare = replace(opened, opened=OtherQueries(opened.opened, queries))
    with pytest.raises(Unavailable, match="query 0 has no group, and random items of its group are what"):
        truth(bare)


class OtherQueries:
    """An open task with other queries."""

    def __init__(self, opened, queries):
        self.train, self.queries = opened.train, queries


def test_it_is_measured_only_where_it_is_named():
    assert not LeaveKOut.by_default
