"""Score queries one at a time, timing each, and compute the metrics of the rankings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.method import ExhaustiveScorer, Scorer
from attrbench.contracts.metric import CUTOFFS, Outcome, PerQuery
from attrbench.contracts.ranking import Ranking, top_k
from attrbench.contracts.record import MetricResult
from attrbench.evaluation.answers import check_ranking, checked_scores
from attrbench.evaluation.meaningless import check_finite_scores, without_equal
from attrbench.evaluation.world import TaskWorld
from attrbench.metrics.intervals import mean_interval

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry


@dataclass(frozen=True)
class Measured:
    """The rankings, scores and latencies of a scorer on all queries.

    Attributes:
        ranked: [m, depth] training ids, strongest first; -1 where a search found fewer, and where all scores are equal.
        scores: [m, n] for exhaustive scorers, else None.
        exact_ranked: [m, depth] the exhaustive ranking, for approximate searches.
        seconds: [m] time of each query, warm-up excluded.
        ranked_scores: [m, depth] scores of the items in `ranked`.
    """

    ranked: NDArray[np.int64]
    scores: NDArray[np.float32] | None
    exact_ranked: NDArray[np.int64] | None
    seconds: NDArray[np.float64]
    ranked_scores: NDArray[np.float32]

    def not_ranked(self) -> list[int]:
        """Return the queries without a ranking, because the scores of all training items are equal."""
        queries: list[int] = np.flatnonzero((self.ranked < 0).all(axis=1)).tolist()
        return queries


def measure_queries(
    scorer: Scorer, queries: QueryFeatures, items: int, depth: int, nonfinite: Sequence[tuple[str, int, float]] = ()
) -> Measured:
    """Rank the `items` training items for each query by a separate, timed call of the scorer; return what it gave.

    A query for which all training items have equal scores has no ranking: its ids are -1. `nonfinite` are the lost
    gradients, which an error tells.

    Raises:
        AttrbenchError: where scores or ranking are not of the training items, a score is NaN or infinite, or all
            scores of every query are equal.
    """
    ranked, found, scores, seconds = [], [], [], []
    _answer(scorer, queries.query(0), items, depth)  # warm-up
    for index in range(len(queries.ids)):
        one = queries.query(index)
        started = time.perf_counter()
        ranking, row = _answer(scorer, one, items, depth)
        seconds.append(time.perf_counter() - started)
        if row is None:
            check_ranking(ranking, 1, items)
        else:
            check_finite_scores(row[None], index)
            scores.append(row)
        ranked.append(ranking.ids[0])
        found.append(ranking.scores[0])
    exact = scorer.exact()
    return Measured(
        ranked=without_equal(scorer, queries, Ranking(np.stack(ranked), np.stack(found)), nonfinite).ids,
        scores=np.stack(scores) if scores else None,
        exact_ranked=None if exact is None else exact.top(queries, depth).ids,
        seconds=np.array(seconds),
        ranked_scores=np.stack(found),
    )


def _answer(scorer: Scorer, query: QueryFeatures, items: int, depth: int) -> tuple[Ranking, NDArray[np.float32] | None]:
    """Return the top items of one query, and the scores of all items where the scorer gives them."""
    if isinstance(scorer, ExhaustiveScorer):
        scores = checked_scores(scorer, query, items)
        return top_k(scores, depth), scores[0]
    return scorer.top(query, depth), None


def measure_metrics(
    registry: Registry, world: TaskWorld, measured: Measured, seed: int, note: Callable[[str], None]
) -> list[MetricResult]:
    """Return the results of all metrics that apply, with intervals over queries; failing metrics are noted."""
    return metric_results(registry, outcome_of(world, measured), seed, note)


def metric_results(registry: Registry, outcome: Outcome, seed: int, note: Callable[[str], None]) -> list[MetricResult]:
    """Return the results of all registered metrics that apply to an outcome; failing metrics are noted.

    Args:
        registry: the plugins.
        outcome: rankings, and scores where there are any.
        seed: of the intervals.
        note: called with one line for each metric that is left out because it raised, with the package that it is of.
    """
    results = []
    for kind in registry.metrics():
        try:
            metric = kind()
            entries = metric.compute(outcome, CUTOFFS)
            if not all(np.isfinite(entry.values).all() for entry in entries):
                raise ValueError("a value is not finite")
            results += [_result(metric.name, metric.higher_is_better, entry, seed) for entry in entries]
        except Exception as error:
            owner = registry.provider("metric", kind.name)
            who = f"{owner.distribution} {owner.version}"
            note(f"metric {kind.name} of {who} is left out: {type(error).__name__}: {error}")
    return results


def outcome_of(world: TaskWorld, measured: Measured) -> Outcome:
    """Return a method's rankings and scores with the relevant items, as metrics and ground truths take them."""
    return Outcome(
        ranked=measured.ranked,
        relevant=relevance(world),
        scores=measured.scores,
        exact_ranked=measured.exact_ranked,
    )


def without_groups(world: TaskWorld) -> str | None:
    """Return the reason why items and queries can't be compared by group (groups are missing), else None."""
    lacking = sum(not group for group in world.opened.queries.groups[: world.count("query")])
    if not any(world.opened.train.groups[: world.count("train")]):
        return "the training items have no groups: rankings only"
    if lacking:
        return f"{lacking} of {world.count('query')} queries have no group: rankings only"
    return None


def relevance(world: TaskWorld) -> NDArray[np.bool_] | None:
    """Return [m, n] bool, whether each training item is in the query's group; None if groups are missing."""
    if without_groups(world) is not None:
        return None
    return shared_groups(
        world.opened.queries.groups[: world.count("query")], world.opened.train.groups[: world.count("train")]
    )


def shared_groups(query_groups: Sequence[str], train_groups: Sequence[str]) -> NDArray[np.bool_]:
    """Return [m, n] bool, whether each training item is in the query's group."""
    shared: NDArray[np.bool_] = np.array(query_groups)[:, None] == np.array(train_groups)[None, :]
    return shared


def _result(name: str, higher_is_better: bool, entry: PerQuery, seed: int) -> MetricResult:
    interval = mean_interval(entry.values, seed)
    return MetricResult(
        metric=name,
        k=entry.k,
        value=float(entry.values.mean()),
        low=None if interval is None else interval[0],
        high=None if interval is None else interval[1],
        ceiling=None if entry.ceiling is None else float(entry.ceiling.mean()),
        random=None if entry.expected is None else float(entry.expected.mean()),
        per_query=[float(value) for value in entry.values],
        higher_is_better=higher_is_better,
    )
