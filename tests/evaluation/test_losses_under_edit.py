"""Losses under edited weights: the same losses where nothing is edited, and nothing of the model changes."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from attrbench.contracts.gradient_source import GradientSource
from attrbench.features.losses_under_edit import LossesUnderEdit
from attrbench.gradients.samples import NoisySamples, Split
from tests.executors.tiny_methods import SOURCE, Ascent, Losses, NoEdit, RaisingEdit, Ruin
from tests.executors.tiny_task import COPIES, QUERIES, TRAIN, compute_features, settings, shard_bytes


@pytest.fixture(scope="module")
def ascended(tmp_path_factory):
    """Losses before and after a step up the query's loss."""
    reader = compute_features(settings(tmp_path_factory.mktemp("ascent")), [Ascent()]).reader("ascent")
    feature = Ascent().feature
    return reader, reader.train()[feature], reader.query()[feature]


def state(world):
    return {name: tensor.clone() for name, tensor in world.opened.denoiser.module.state_dict().items()}


def test_an_edit_that_does_nothing_gives_the_outputs_bit_for_bit(tmp_path):
    done = compute_features(settings(tmp_path), [NoEdit(), Losses()])
    reader, outputs = done.reader("no-edit"), done.reader("losses").train()[Losses().feature]
    before, after = reader.train()[NoEdit().feature], reader.query()[NoEdit().feature]
    assert outputs.dtype == before.dtype == after.dtype == np.float32
    assert before.shape == (TRAIN, 2) and after.shape == (QUERIES, TRAIN, 2)
    assert np.count_nonzero(outputs) > outputs.size / 2
    assert np.array_equal(before, outputs)
    assert all(np.array_equal(losses, outputs) for losses in after)


def test_the_losses_under_the_original_weights_are_the_bytes_of_outputs(tmp_path):
    done = compute_features(settings(tmp_path), [NoEdit(), Losses()])
    own, others = NoEdit().feature.store("train", done.world), Losses().feature.store("train", done.world)
    assert own.description == others.description


def test_unlearning_a_query_raises_its_copy_most(ascended):
    _, before, after = ascended
    rises = (after - before).mean(axis=2)
    for query, item in COPIES.items():
        assert rises[query, item] > np.delete(rises[query], item).max() > 0


def test_an_edit_for_one_query_is_not_seen_by_another(ascended, tmp_path):
    _, _, after = ascended
    alone = compute_features(settings(tmp_path, limit_queries=1), [Ascent()]).reader("ascent")
    assert np.array_equal(alone.query()[Ascent().feature][0], after[0])
    assert not np.array_equal(after[0], after[3])


@pytest.mark.parametrize("method", [Ascent, Ruin, RaisingEdit])
def test_the_model_keeps_its_weights_and_its_modes_to_the_bit(tmp_path, method):
    at_work = settings(tmp_path)
    whole = compute_features(at_work, [Losses()])
    before = state(whole.world)
    done = compute_features(at_work, [method()])
    after = state(done.world)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name].numpy(), after[name].numpy()) for name in before)
    assert not any(module.training for module in done.world.opened.denoiser.module.modules())


def test_a_method_whose_edit_raises_fails_alone_with_one_line(tmp_path):
    done = compute_features(settings(tmp_path), [RaisingEdit(), NoEdit()])
    assert done.reader("no-edit").query()[NoEdit().feature].shape == (QUERIES, TRAIN, 2)
    assert str(done.progress.given_up["raising-edit"]) == "its edit for query 0 raised ValueError: one line"


def test_losses_that_are_not_finite_are_reported_and_zero(tmp_path):
    reader = compute_features(settings(tmp_path), [Ruin()]).reader("ruin")
    after, before = reader.query()[Ruin().feature], reader.train()[Ruin().feature]
    assert np.isfinite(after).all()
    assert not after[0].any() and np.array_equal(after[1], before)
    timesteps = reader.world.denoiser("final").timesteps(SOURCE.grid)
    assert reader.nonfinite() == [("query", 0, timestep) for timestep in timesteps]


def test_a_missing_query_is_computed_again_and_no_other(tmp_path):
    at_work = settings(tmp_path)
    done = compute_features(at_work, [Ascent()])
    store = done.world.store(Ascent().feature, "query")
    written = shard_bytes(at_work.cache)
    paths = sorted(store.folder.glob("*.safetensors"))
    assert len(paths) == QUERIES
    times = {path: path.stat().st_mtime_ns for path in paths}
    paths[2].unlink()
    compute_features(at_work, [Ascent()])
    assert shard_bytes(at_work.cache) == written
    assert [path for path in paths if path.stat().st_mtime_ns != times[path]] == [paths[2]]


def test_what_an_edit_built_is_the_training_sets_cost_and_not_the_queries(ascended):
    reader, _, _ = ascended
    assert reader.cache_seconds() >= 1000
    assert reader.shared_bytes() == 7
    assert ((reader.query_seconds() > 0) & (reader.query_seconds() < 100)).all()
    assert reader.facts()["length"] > 0


def test_another_edit_or_seed_has_losses_of_its_own(tmp_path):
    worlds = [compute_features(settings(tmp_path, seed=seed), []).world for seed in (0, 1)]
    features = [LossesUnderEdit(source=SOURCE, edit=name) for name in ("a", "b")]
    stores = {world.store(feature, "query").fingerprint for world in worlds for feature in features}
    assert len(stores) == 4


def test_a_query_is_given_with_the_noise_that_its_place_has(tmp_path):
    world = compute_features(settings(tmp_path), []).world
    split = Split("query", world.items("query"))
    everything = NoisySamples(SOURCE, world.denoiser("final"), split)
    (whole,) = [batch for _, _, batch in everything.batches(1000)]
    one = NoisySamples(SOURCE, world.denoiser("final"), split, 1, first=3)
    ((items, steps, batch),) = list(one.batches(1000))
    assert items.tolist() == [3, 3] and steps.tolist() == [0, 1]
    assert np.array_equal(batch.noisy.numpy(), whole.noisy[[3, 3 + QUERIES]].numpy())


def test_losses_along_a_trajectory_are_refused():
    with pytest.raises(ValidationError, match="latents=clean"):
        LossesUnderEdit(source=GradientSource(latents="trajectory"), edit="any")
