"""What records get from a later run of the same, and what a record of several models keeps of its models' records."""

from pathlib import Path

import pytest

from attrbench.contracts.record import read_file
from attrbench.evaluation.pooling import _metrics as pooled_metrics
from attrbench.evaluation.rescore import with_metrics_of

PUBLISHED = Path(__file__).parents[2] / "leaderboards" / "digits-mini"


@pytest.fixture(scope="module")
def published():
    return read_file(next(PUBLISHED.glob("pixel-*.json")))


def changed(record, change):
    return record.model_copy(update={"metrics": [change(result) for result in record.metrics]})


def without_parts(result):
    if result.noise is None:
        return result
    noise = None if result.name.startswith("group") else result.noise.model_copy(update={"parts": None})
    return result.model_copy(update={"noise": noise})


def test_a_record_without_parts_of_its_noise_gets_those_of_a_later_run_and_keeps_all_else(published):
    old = changed(published, without_parts)
    assert old != published
    whole, names = with_metrics_of(old, published)
    assert whole == published
    assert {"lds", "lds-top@50", "group-top1", "group-precision@10"} <= set(names)
    assert with_metrics_of(whole, published) == (whole, [])


def test_the_error_of_a_record_stays_where_a_later_run_has_another(published):
    def other(result):
        return result if result.noise is None else result.model_copy(update={"noise": twice(result.noise)})

    def twice(noise):
        return noise.model_copy(update={"error": 2 * noise.error})

    whole, _ = with_metrics_of(changed(published, without_parts), changed(published, other))
    assert whole.metric("lds").noise == published.metric("lds").noise
    assert whole.metric("lds").value == published.metric("lds").value


def test_metrics_of_retrained_models_are_no_metrics_of_several_models(published):
    names = {result.name for result in pooled_metrics([published, published], 0)}
    assert "detection-rate@10" in names
    assert not [name for name in names if name.startswith(("lds", "group", "leave-k-out"))]
