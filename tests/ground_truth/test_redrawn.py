"""The distance of redrawn queries is 0 for the model that drew them, and that of plain arithmetic for another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attrbench.errors import AttrbenchError
from attrbench.ground_truth import retraining
from attrbench.ground_truth.losses import QueryLosses
from attrbench.ground_truth.redrawn import RedrawnQueries, cosine_distance, pixel_distance, redrawn
from attrbench.ground_truth.retraining import is_done, measured, train_subset, training_job, use_opened_task
from tests.ground_truth.tiny_trainable import QUERIES, setting


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The tiny task, whose queries its own model drew."""
    found = setting(tmp_path_factory.mktemp("redrawn"))
    loaded = found.opened
    loaded.queries = replace(loaded.queries, images=loaded.denoiser.generate([""] * QUERIES, range(QUERIES)))
    return found


def test_the_model_that_drew_the_queries_draws_them_again(opened, monkeypatch):
    monkeypatch.setattr(retraining, "BATCH", 2)
    distances = RedrawnQueries().measure(opened.opened.denoiser, opened.opened)
    assert set(distances) == {"pixels", "features"}
    assert distances["pixels"].tolist() == [0] * QUERIES
    assert distances["features"] == pytest.approx(0, abs=1e-6)


def test_another_model_draws_other_pictures_and_their_distance_is_plain_arithmetic(opened):
    other = opened.opened.denoiser.at("untrained")
    distances, drawn = RedrawnQueries().measure(other, opened.opened), redrawn(other, opened.opened.queries)
    first = (drawn[0] / 255 - opened.opened.queries.images[0] / 255) ** 2
    assert distances["pixels"][0] == pytest.approx(first.mean() ** 0.5, rel=1e-6) and distances["pixels"].min() > 0


def test_distances_of_constructed_arrays():
    black, white = np.zeros((2, 4, 4, 1), np.uint8), np.full((2, 4, 4, 1), 255, np.uint8)
    assert pixel_distance(black, white).tolist() == [1, 1]
    rows = np.array([[1.0, 0], [0, 0]]), np.array([[0.0, 2], [1, 1]])
    assert cosine_distance(*rows).tolist() == [1, 1] and cosine_distance(rows[1], 3 * rows[1]) == pytest.approx(0)


def test_queries_that_no_model_drew_are_refused(opened):
    queries = replace(opened.opened.queries, seeds=None)
    with pytest.raises(AttrbenchError, match="were not drawn by the model"):
        redrawn(opened.opened.denoiser, queries)


def test_weights_that_are_kept_serve_another_measurement_and_others_are_gone(opened, monkeypatch):
    use_opened_task(opened)
    subset = np.arange(12)
    kept = training_job(opened, subset, 3, QueryLosses(steps=2, draws=1), keep_weights=True)
    train_subset(kept)
    other = training_job(opened, subset, 3, RedrawnQueries())
    assert kept.weights.is_dir() and kept.weights == other.weights and kept.path != other.path

    def refuse(*args, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr("tests.ground_truth.tiny_trainable.train_ddpm", refuse)
    train_subset(other)
    assert is_done(other) and set(measured(other)) == {"pixels", "features"}
    assert not kept.weights.exists()


def test_pictures_do_not_depend_on_the_torch_seed(opened):
    torch.manual_seed(0)
    once = redrawn(opened.opened.denoiser, opened.opened.queries)
    torch.manual_seed(1)
    assert np.array_equal(once, redrawn(opened.opened.denoiser, opened.opened.queries))
