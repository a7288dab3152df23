"""Every method gives what its golden record says; and the comparison sees a changed number.

`make test` runs the quick cases. `ATTRBENCH_GOLDEN=all` runs every case, as `python -m tests.golden compare` does.
"""

import os

import numpy as np
import pytest
import torch

from tests.golden.cases import CASES, TOLERANCE
from tests.golden.compare import differences, digest_differences, off, ties
from tests.golden.files import RECORDS, Capture, Golden, digest
from tests.golden.probe import Outcome
from tests.golden.runs import OtherQueries, run

EVERYTHING = os.environ.get("ATTRBENCH_GOLDEN") == "all"
CHOSEN = [case for case in CASES.values() if case.quick or EVERYTHING]
LABEL = "dmin:v=4"


@pytest.mark.slow
@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_every_number_is_that_of_the_record(case):
    golden = Golden.read(RECORDS / f"{case.name}.npz")
    labels = golden.labels if EVERYTHING else case.tested(golden.labels)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        now = run(case, labels, golden)
    except OtherQueries as error:
        pytest.skip(str(error))
    finally:
        torch.set_num_threads(threads)
    assert differences(golden, now.golden(), now.scores, labels) == []


def test_records_are_small_and_hold_every_case():
    files = {path.stem: path.stat().st_size for path in RECORDS.glob("*.npz")}
    assert files.keys() == CASES.keys()
    assert sum(files.values()) < 2_000_000


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "scores": rng.standard_normal((3, 40)).astype(np.float32),
        "train/rows": rng.standard_normal((40, 2, 5)).astype(np.float32),
        "train/images": rng.integers(0, 256, (4, 2, 2, 1), dtype=np.uint8),
        "factors/conv/inputs": np.linalg.qr(rng.standard_normal((6, 6)))[0],
    }


def captured(arrays, status="limited", facts=None, storage=7, rates=(0.5, 0.25, 1.0), ranking=None):
    """A capture of one method as a run would make it."""
    capture = Capture(case="made-up", task="none", train="", queries="")
    for name, array in arrays.items():
        if name != "scores":
            capture.array(LABEL, name, array)
    order = np.argsort(-arrays["scores"], axis=1, kind="stable")[:, :10] if ranking is None else ranking
    rate = {"value": float(np.mean(rates)), "low": 0.2, "high": 1.0, "ceiling": 1.0, "random": 0.1}
    capture.outcome(
        Outcome(
            LABEL,
            status,
            scores=arrays["scores"],
            ranking=order,
            metrics={"detection-rate@10": {**rate, "per_query": list(rates)}},
            facts={"damping": 0.1} if facts is None else facts,
            storage={"rows": storage},
        )
    )
    return capture


def lines(golden, now):
    return differences(golden.golden(), now.golden(), now.scores)


def test_equal_runs_have_no_differences(arrays):
    assert lines(captured(arrays), captured(arrays)) == []


@pytest.mark.parametrize("name", ["scores", "train/rows"])
@pytest.mark.parametrize("factor", [1 + 1e-4, 1 - 1e-3])
def test_a_scaled_array_is_seen(arrays, name, factor):
    changed = {**arrays, name: (arrays[name] * np.float32(factor)).astype(np.float32)}
    assert any(name in line for line in lines(captured(arrays), captured(changed)))


def test_a_single_changed_score_is_seen(arrays):
    scores = arrays["scores"].copy()
    scores[1, 17] += 1e-3
    assert any("scores" in line for line in lines(captured(arrays), captured({**arrays, "scores": scores})))


def test_a_change_below_the_tolerance_is_none(arrays):
    close = (arrays["scores"] * (1 + np.float32(TOLERANCE / 4))).astype(np.float32)
    assert lines(captured(arrays), captured({**arrays, "scores": close})) == []


def test_a_score_that_is_not_a_number_is_seen(arrays):
    scores = arrays["scores"].copy()
    scores[0, 0] = np.nan
    assert lines(captured(arrays), captured({**arrays, "scores": scores}))


def test_another_picture_is_seen(arrays):
    images = arrays["train/images"].copy()
    images[0, 0, 0, 0] ^= 1
    (line,) = lines(captured(arrays), captured({**arrays, "train/images": images}))
    assert "other images" in line


def test_the_sign_of_an_eigenvector_is_free_but_not_its_length(arrays):
    flipped = {**arrays, "factors/conv/inputs": -arrays["factors/conv/inputs"]}
    longer = {**arrays, "factors/conv/inputs": 1.1 * arrays["factors/conv/inputs"]}
    assert lines(captured(arrays), captured(flipped)) == []
    assert lines(captured(arrays), captured(longer))


@pytest.mark.parametrize(
    "other",
    [{"status": "failed"}, {"facts": {"damping": 0.1001}}, {"facts": {}}, {"storage": 8}, {"rates": (0.5, 0.3, 1.0)}],
    ids=lambda other: next(iter(other)),
)
def test_facts_storage_status_and_rates_are_compared(arrays, other):
    assert lines(captured(arrays), captured(arrays, **other))


def test_a_missing_feature_or_method_is_seen(arrays):
    fewer = {name: array for name, array in arrays.items() if name != "train/rows"}
    assert lines(captured(arrays), captured(fewer)) == [f"{LABEL}: train/rows: missing"]
    nothing = Capture(case="made-up", task="none", train="", queries="")
    assert lines(captured(arrays), nothing) == [f"{LABEL}: did not run"]


def test_neighbours_may_change_places_only_where_their_scores_tie(arrays):
    scores = arrays["scores"].copy()
    order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    swapped = order.copy()
    swapped[0, [3, 4]] = swapped[0, [4, 3]]
    tied, unexplained = ties(order, swapped, scores, TOLERANCE)
    assert unexplained == [(0, 3)]
    assert not tied.any()
    scores[0, order[0, 3]] = scores[0, order[0, 4]] * (1 + 1e-6)
    tied, unexplained = ties(order, swapped, scores, TOLERANCE)
    assert unexplained == []
    assert tied.tolist() == [True, False, False]


def test_a_rate_may_change_where_a_tie_explains_it(arrays):
    scores = arrays["scores"].copy()
    order = np.argsort(-scores, axis=1, kind="stable")[:, :11]
    scores[0, order[0, 10]] = scores[0, order[0, 9]]
    outside = order[:, :10].copy()
    outside[0, 9] = order[0, 10]
    arrays = {**arrays, "scores": scores}
    before, after = captured(arrays, ranking=order[:, :10]), captured(arrays, ranking=outside, rates=(0.4, 0.25, 1.0))
    assert lines(before, after) == []
    assert lines(before, captured(arrays, ranking=order[:, :10], rates=(0.4, 0.25, 1.0)))


def test_the_tolerance_is_relative_to_entry_and_scale():
    old = np.array([0.0, 1.0, 100.0])
    assert off(old, old + np.array([0.9e-5, 1.9e-5, 100e-5]), 1.0, 1e-5) == []
    assert off(old, old + np.array([1.1e-5, 0, 0]), 1.0, 1e-5)
    assert off(old, old + np.array([0, 0, 102e-5]), 1.0, 1e-5)


def test_digests_see_the_last_bit(arrays):
    scores = arrays["scores"].copy()
    scores[2, 3] = np.nextafter(scores[2, 3], np.float32(9))
    assert digest(scores) != digest(arrays["scores"])
    before, after = captured(arrays), captured({**arrays, "scores": scores})
    assert digest_differences({"methods": before.digests}, {"methods": after.digests}) == [
        f"{LABEL}: scores: other bytes"
    ]


def test_a_record_reads_back_as_it_was_written(arrays, tmp_path):
    golden = captured(arrays).golden()
    golden.write(tmp_path / "made-up.npz")
    read = Golden.read(tmp_path / "made-up.npz")
    assert read.document == golden.document
    assert np.array_equal(read.ranking(LABEL), golden.ranking(LABEL))
    entry = golden.method(LABEL)["scores"]
    assert np.array_equal(read.numbers(entry), golden.numbers(entry))
