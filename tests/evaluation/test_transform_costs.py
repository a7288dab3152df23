"""What a transform of the queries' gradients took is told apart from what its state took."""

from __future__ import annotations

import pytest

from attrbench.contracts.computation import Unit
from tests.executors.tiny_methods import Factors
from tests.executors.tiny_task import TRAIN, compute_features, settings


@pytest.mark.parametrize(("spent", "least", "most"), [(0.0, 0.05, 60), (0.05, 0.0, 60), (None, 0.0, 0.0)])
def test_state_loaded_from_the_cache_takes_nothing_off_the_queries_seconds(tmp_path, monkeypatch, spent, least, most):
    monkeypatch.setattr(Factors, "spent", spent)
    reader = compute_features(settings(tmp_path), [Factors()]).reader("factors")
    store = reader.world.store(Factors().feature, "train")
    assert least <= store.sidecar(Unit(0, TRAIN)).facts["query_seconds"] <= most
    assert reader.cache_seconds() >= 1000
    assert (reader.query_seconds() > 0).all()
