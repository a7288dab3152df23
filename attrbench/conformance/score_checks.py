"""Conformance checks of a method's scores: item order, duplicates, sign, finite values and top-k ranking."""

from __future__ import annotations

from functools import partial

import numpy as np

from attrbench.conformance.check_report import Finding, failed, passed, skipped
from attrbench.conformance.checked_method import Subject, common_noise, exhaustive, exhaustive_scores
from attrbench.conformance.score_comparison import ROUNDING, Scores, difference, scales, scores_of
from attrbench.conformance.toy_task import CONSTANT, COPIES, SILENT, TWINS
from attrbench.contracts.ranking import top_k


def permutation(subject: Subject) -> Finding:
    """Check that scores follow the training items when these are given in another order."""
    check = "permutation"
    if reason := subject.not_told_apart:
        return skipped(check, reason)
    kept = np.delete(np.arange(subject.count), TWINS[1])  # equal items are the next check's
    order = np.random.default_rng(20_241_208).permutation(len(kept))  # a seed that no method will have by chance
    expected = exhaustive_scores(subject.features.gathered(kept, "/kept"))
    permuted = exhaustive_scores(subject.features.gathered(kept[order], "/permuted"))
    assert expected is not None and permuted is not None
    worst = difference(permuted, expected[:, order])
    if worst.size > ROUNDING:
        return failed(
            check,
            f"with the training items in another order {worst.beyond(ROUNDING)}",
            worst.advice(
                "let an item's score depend on its features alone, not on its index; take what is needed of single"
                " items from the features, and give an index file a name with context.fingerprint in it"
            ),
        )
    return passed(check, f"another order of the training items changes scores by at most {worst.size:.0e}")


def duplicates(subject: Subject) -> Finding:
    """Check that equal training items get equal scores, and that items of equal score are ranked by index."""
    check = "duplicates"
    if reason := subject.not_told_apart:
        return skipped(check, reason)
    pairs = [TWINS, (0, subject.count - 1), (SILENT, subject.count - 2), (CONSTANT, subject.count - 3)]
    index = np.arange(subject.count)
    for original, copy in pairs:
        index[copy] = original
    features = subject.features.gathered(index, "/twins")
    scorer = exhaustive(features.fit())
    assert scorer is not None
    scores = scores_of(scorer, features.query, subject.count)
    worst = difference(scores[:, [copy for _, copy in pairs]], scores[:, [original for original, _ in pairs]])
    if worst.size > ROUNDING:
        return failed(
            check,
            f"two equal training items score {worst.found:.9g} and {worst.expected:.9g} for query {worst.query}",
            worst.advice("score an item by its features alone; leave ties to the ranking, which takes the first item"),
        )
    ids, values = scorer.top(features.query, subject.count)
    if ((values[:, 1:] == values[:, :-1]) & (ids[:, 1:] < ids[:, :-1])).any():
        return failed(
            check,
            "of two items with equal scores the larger index comes first",
            "rank with attrbench.contracts.ranking.top_k",
        )
    return passed(check, f"{len(pairs)} pairs of equal items score alike to {worst.size:.0e}; ties by index")


def sign(subject: Subject) -> Finding:
    """Check that items as queries score themselves above average, or highest if the method declares `self_first`."""
    check = "sign"
    self_first = subject.method.self_first
    if self_first is False:
        return skipped(check, "the method says that an item need not score high for itself (self_first)")
    if reason := subject.not_told_apart:
        return skipped(check, reason)
    own, scores, queries = _own_scores(subject)
    usable = np.isfinite(scores).all(axis=1) & (np.abs(scores).max(axis=1) > 0)
    if usable.sum() < 2:
        return skipped(check, "fewer than two queries have finite scores other than 0")
    own, scores = own[usable], scores[usable]
    share = (scores < own[:, None]).mean(axis=1) + (scores == own[:, None]).mean(axis=1) / 2
    where = f"own score {own.mean():.4g}, average score {scores.mean():.4g}, own percentile {share.mean():.0%}"
    where += f" over {len(own)} {queries}"
    if own.mean() <= scores.mean() + ROUNDING * np.abs(scores).max():
        return failed(
            check,
            f"a training item as the query does not score above average for itself: {where}",
            "larger must mean more influential (a distance needs a minus sign); a method for which this says nothing"
            " sets self_first = False",
        )
    behind = (scores.max(axis=1) - own) / scales(scores)
    if self_first and behind.max() > ROUNDING:
        return failed(
            check,
            f"the method says self_first, and {(behind > ROUNDING).sum()} of {len(own)} items are not first for"
            f" themselves: {where}",
            "look for train and query features that are not treated alike, or take self_first back",
        )
    return passed(check, where)


def _own_scores(subject: Subject) -> tuple[Scores, Scores, str]:
    """Return [m] scores of items as queries for themselves, [m, n] scores of all items for them, and a description.

    For a positive semi-definite kernel over all training items, the mean of the former is never below that of the
    latter, because the centered kernel has a non-negative trace.
    """
    features = subject.features
    if not all(feature.tells_items_as_queries() for feature in features.query.views):
        bench = subject.bench
        features = bench.features(subject.request, bench.settings("self"), "train", common_noise)
    query = features.train.as_queries(features.query, np.arange(features.train.count))
    scorer = exhaustive(features.fit())
    assert scorer is not None
    if query is not None:
        scores = scores_of(scorer, query, subject.count)
        return np.diagonal(scores).copy(), scores, "training items"
    places = {**COPIES, CONSTANT: CONSTANT}
    scores = scores_of(scorer, features.query, subject.count)[list(places)]
    return scores[np.arange(len(places)), list(places.values())], scores, "queries whose picture is a training item"


def finite(subject: Subject) -> Finding:
    """Check that all scores are finite even for items and queries with zero gradients or a black image."""
    check = "finite"
    scores = exhaustive_scores(subject.features)
    scores = subject.scores if scores is None else scores
    bad = ~np.isfinite(scores)
    if not bad.any():
        return passed(check, f"all {bad.size} scores are finite, with a zero gradient and a black image on either side")
    touched = [
        f"{what} ({bad[where].sum()})"
        for what, where in (
            ("the item with a zero gradient", (slice(None), SILENT)),
            ("the black item", (slice(None), CONSTANT)),
            ("the query with a zero gradient", (SILENT, slice(None))),
            ("the black query", (CONSTANT, slice(None))),
        )
        if bad[where].all()
    ]
    return failed(
        check,
        f"{bad.sum()} of {bad.size} scores are NaN or infinite: {', '.join(touched) or 'here and there'}",
        "guard every division by a norm, a variance or a sum: np.divide(a, b, out=np.zeros_like(a), where=b > 0)",
    )


def top(subject: Subject) -> Finding:
    """Check that `top(k)` returns k distinct valid items in order of score, and for exact scorers the best k."""
    check = "top"
    count, query = subject.count, subject.features.query
    ranked = exhaustive(subject.scorer) is subject.scorer
    problem = partial(
        failed, check, advice="leave `top` to ExhaustiveScorer, or rank with attrbench.contracts.ranking.top_k"
    )
    for k in (1, count // 2, count):
        ids, values = subject.scorer.top(query, k)
        if ids.shape != (len(query.ids), k) or values.shape != ids.shape:
            return problem(f"top({k}) has shapes {list(ids.shape)} and {list(values.shape)}")
        if ids.dtype.kind != "i" or ids.min() < -1 or ids.max() >= count:
            return problem(f"top({k}) holds ids {ids.min()} to {ids.max()} ({ids.dtype}) of {count} items")
        if any(len(set(row[row >= 0])) < (row >= 0).sum() for row in ids):
            return problem(f"top({k}) names an item twice")
        if (np.diff(values, axis=1) > 0).any() or (ids[:, :1] < 0).any():
            return problem(f"top({k}) is not in the order of its own scores, or empty")
        if ranked and (ids != top_k(subject.scores.astype(np.float32), k).ids).any():
            return problem(f"top({k}) is not the {k} largest of scores()")
    kind = "the largest scores" if ranked else "in order, without doubles"
    return passed(check, f"top(1), top({count // 2}) and top({count}) are {kind}")
