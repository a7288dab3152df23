"""Comparison of a run with a golden record: what differs, one line each.

Compared exactly: which methods run and whether they fail, shapes, types, images, bytes of storage.
Compared within `cases.TOLERANCE`: sampled entries and root mean squares of features and scores, and facts.
Compared within `ROWS` times that: sampled entries of gradient rows.
Compared except for ties: rankings, which may differ where the scores of the two items are within the tolerance of each
other, and the rates of a query whose ranking has such a tie. Average precision ranks all items, but a record keeps only
the top: it is compared within `RANKED_TO_THE_END`.
Not compared entry by entry: the eigenvectors of curvature factors, whose signs and, for equal eigenvalues, directions
are the linear algebra library's choice, and eigenvalues measured along them; only their root mean squares are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.golden.cases import tolerance
from tests.golden.files import SCORES, Golden, places

RANKED_TO_THE_END = 2e-3
ROWS = 10
"""Entries of a row are small differences of large sums: two threads instead of one moved some by 3e-5, measured on ten
methods of digits-mini-slice, whose scores all stayed within 1e-5."""
RESIDUAL = 1e-3
"""Relative tolerance of a residual, the small difference of large numbers."""
BASIS = ("/inputs", "/outputs", "/ekfac")
"""Curvature factors that depend on the choice of eigenvectors."""


def differences(
    golden: Golden, now: Golden, scores: dict[str, np.ndarray], labels: list[str] | None = None
) -> list[str]:
    """Return a line for everything in which a run differs from its record.

    Args:
        golden: the record.
        now: the run, as a record of its own.
        scores: label -> [m, n] the run's complete scores.
        labels: the methods to compare; all of the record by default.
    """
    found: list[str] = []
    for label in golden.labels if labels is None else labels:
        if label not in now.labels:
            found.append(f"{label}: did not run")
            continue
        found += [f"{label}: {line}" for line in _of_method(golden, now, label, scores.get(label))]
    return found


def _of_method(golden: Golden, now: Golden, label: str, scores: np.ndarray | None) -> Iterator[str]:
    old, new = golden.method(label), now.method(label)
    for name in ("status", "approximate", "storage"):
        if old[name] != new[name]:
            yield f"{name} is {new[name]} and was {old[name]}" + (f" ({new['error']})" if new["error"] else "")
    within = tolerance(label)
    for name, entry in old["features"].items():
        other = new["features"].get(name)
        if other is None:
            yield f"{name}: missing"
        else:
            yield from (f"{name}: {line}" for line in _of_feature(golden, now, name, entry, other, within))
    yield from _of_facts(old["facts"], new["facts"], within)
    if "scores" in old and "scores" in new:
        yield from _of_scores(golden, now, old["scores"], new["scores"], within)
    elif "scores" in old:
        yield "there are no scores"
    tied = np.zeros(0, bool)
    if (before := golden.ranking(label)) is not None:
        after = now.ranking(label)
        if after is None or after.shape != before.shape:
            yield "ranking: missing or of another shape"
            return
        tied, unexplained = ties(before, after, scores, within)
        for query, place in unexplained:
            ids = f"item {after[query, place]}, recorded {before[query, place]}"
            yield f"ranking of query {query}, place {place}: {ids}"
    yield from _of_metrics(old["metrics"], new["metrics"], tied)


def _of_feature(
    golden: Golden, now: Golden, name: str, old: dict[str, Any], new: dict[str, Any], within: float
) -> Iterator[str]:
    if (old["shape"], old["dtype"]) != (new["shape"], new["dtype"]):
        yield f"{new['dtype']} {new['shape']}, recorded {old['dtype']} {old['shape']}"
        return
    if "sha256" in old:
        if old["sha256"] != new["sha256"]:
            yield "other images"
        return
    if not np.isclose(new["rms"], old["rms"], rtol=within, atol=0):
        yield f"root mean square {new['rms']:.8g}, recorded {old['rms']:.8g}"
    if not (name.startswith("factors/") and name.endswith(BASIS)):
        allowed = ROWS * within if name.endswith("rows") else within
        yield from off(golden.numbers(old), now.numbers(new), old["rms"], allowed)


def off(old: np.ndarray, new: np.ndarray, scale: float | np.ndarray, within: float) -> list[str]:
    """Return at most one line: the entry that is off the most, in units of what is allowed."""
    old, new = old.astype(np.float64), new.astype(np.float64)
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(same, 0.0, np.abs(new - old) / (within * (np.abs(old) + scale)))
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    if not ratio.size or ratio.max() <= 1:
        return []
    worst = int(ratio.argmax())
    return [
        f"{int((ratio > 1).sum())} of {ratio.size} sampled entries differ, the worst {new[worst]:.8g}, recorded"
        f" {old[worst]:.8g}: {ratio[worst]:.1f} times the tolerance of {within:g}"
    ]


def _of_scores(golden: Golden, now: Golden, old: dict[str, Any], new: dict[str, Any], within: float) -> Iterator[str]:
    if old["shape"] != new["shape"]:
        yield f"scores {new['shape']}, recorded {old['shape']}"
        return
    m, n = old["shape"]
    rows = np.array(old["rms"])[places(m * n, SCORES) // n]
    yield from (f"scores: {line}" for line in off(golden.numbers(old), now.numbers(new), rows, within))
    if not np.allclose(new["rms"], old["rms"], rtol=within, atol=0):
        yield "scores: the root mean square of a query differs"


def _of_facts(old: dict[str, float], new: dict[str, float], within: float) -> Iterator[str]:
    for name, value in old.items():
        if name not in new:
            yield f"fact {name}: missing"
        elif not np.isclose(new[name], value, rtol=RESIDUAL if name == "residual" else within, atol=0):
            yield f"fact {name}: {new[name]:.8g}, recorded {value:.8g}"


def ties(
    old: np.ndarray, new: np.ndarray, scores: np.ndarray | None, within: float
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Compare rankings.

    Args:
        old, new: [m, depth] ids.
        scores: [m, n] of the new run; None where nothing can explain a difference.
        within: relative tolerance of a score.

    Returns:
        [m] whether a query's rankings differ by ties only, and (query, place) of the first difference of each query
        that no tie explains.
    """
    tied, unexplained = np.zeros(len(old), bool), []
    for query, (before, after) in enumerate(zip(old, new, strict=True)):
        places = np.flatnonzero(before != after)
        if not places.size:
            continue
        allowed = np.zeros(places.size, bool)
        if scores is not None and (before >= 0).all() and (after >= 0).all():
            a, b = (scores[query, ids[places]].astype(np.float64) for ids in (before, after))
            rms = np.sqrt(np.mean(scores[query].astype(np.float64) ** 2))
            allowed = np.abs(a - b) <= 2 * within * (np.abs(a) + rms)  # each of the two may have moved
        if allowed.all():
            tied[query] = True
        else:
            unexplained.append((query, int(places[~allowed][0])))
    return tied, unexplained


def _of_metrics(old: dict[str, Any], new: dict[str, Any], tied: np.ndarray) -> Iterator[str]:
    for name, result in old.items():
        if name not in new:
            yield f"{name}: missing"
            continue
        before, after = (np.array(each["per_query"], np.float64) for each in (result, new[name]))
        if before.shape != after.shape:
            yield f"{name}: of {after.size} queries, recorded {before.size}"
            continue
        slack = np.full(before.shape, RANKED_TO_THE_END if name == "average-precision" else 1e-12)
        if tied.shape == before.shape:
            slack[tied] = np.inf
        wrong = np.flatnonzero(np.abs(before - after) > slack)
        if wrong.size:
            yield f"{name} of query {wrong[0]}: {after[wrong[0]]:.6g}, recorded {before[wrong[0]]:.6g}"
        same = bool((before == after).all())
        for key in ("value", "low", "high", "ceiling", "random"):
            a, b = result[key], new[name][key]
            if same and a != b and (a is None or b is None or not np.isclose(a, b, rtol=1e-12, atol=1e-15)):
                yield f"{name}, {key}: {b}, recorded {a}"


def digest_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return a line for every array whose bytes differ, where both runs were made on the same machine."""
    found = []
    for label, arrays in old["methods"].items():
        for name, value in arrays.items():
            other = new["methods"].get(label, {}).get(name)
            if other != value:
                found.append(f"{label}: {name}: {'missing' if other is None else 'other bytes'}")
    return found
