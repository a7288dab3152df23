"""Only what a shard lacks is computed again, and a gradient that is not finite harms its own row only."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from attrbench.contracts.computation import Engine
from attrbench.contracts.denoiser import Encoded
from attrbench.gradients.gradient_pass import GradientPass, Split
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.store.encoding import decode_rows
from attrbench.store.shards import Unit
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards
from tests.gradients.pass_features import (
    ALL,
    COUNT,
    SOURCE,
    STEPS,
    TIMESTEPS,
    assert_equal_to_rounding,
    compute,  # noqa: F401
    contents,
    factors,
    measured_error,
    products_feature,
    queries,  # noqa: F401
    rows_feature,
    stores_of,
)

# --- shards


SIZED = {
    rows_feature(64): 1,
    rows_feature(100, timesteps="mean"): 4,
    rows_feature(64, layers="module", dtype="int8"): 8,
    products_feature(layers="module"): 64,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_denoiser, tiny_items, queries):
    """A cache in which all of SIZED is done."""
    root = tmp_path_factory.mktemp("finished")
    work = GradientPass(SOURCE, tiny_denoiser, Split("train", tiny_items), Engine(), factors(queries))
    work.compute(ALL, stores_of(root, list(SIZED), SIZED))
    return root


@pytest.fixture
def cache(finished, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "cache"))


@pytest.mark.parametrize("feature", SIZED, ids=[f"{items} a shard" for items in SIZED.values()])
def test_features_whose_shards_differ_in_size_come_out_of_one_pass_as_they_do_alone(compute, finished, feature):
    size = SIZED[feature]
    store = stores_of(finished, [feature], SIZED)[feature]
    found, sidecars = contents(store)
    expected, _ = contents(compute([feature])[feature])
    assert [(shard.first, shard.last) for shard in store.shards(ALL)] == [
        (first, min(first + size, COUNT)) for first in range(0, COUNT, size)
    ]
    assert [sidecar.rows for sidecar in sidecars] == [shard.last - shard.first for shard in store.shards(ALL)]
    assert [len(sidecar.item_seconds) for sidecar in sidecars] == [sidecar.rows for sidecar in sidecars]
    assert all(seconds > 0 for sidecar in sidecars for seconds in sidecar.item_seconds)
    assert {sidecar.features_in_pass for sidecar in sidecars} == {len(SIZED)}
    assert_equal_to_rounding(found, expected)


class Watched(DDPMDenoiser):
    """Notes which images are encoded, by their corners."""

    seen: list

    def encode(self, images, prompts, image_range):
        self.seen.extend(images[:, 0, 0, 0].tolist())
        return super().encode(images, prompts, image_range)


@pytest.fixture
def watched(tiny_denoiser, tiny_items):
    corners = tiny_items.images[:, 0, 0, 0].tolist()
    assert len(set(corners)) == COUNT
    denoiser = copy.copy(tiny_denoiser)
    denoiser.__class__ = Watched
    denoiser.seen = []
    denoiser.items_seen = lambda: sorted(corners.index(corner) for corner in denoiser.seen)
    return denoiser


@pytest.mark.parametrize(
    ("index", "shard"), [(0, Unit(5, 6)), (1, Unit(4, 8)), (2, Unit(8, 12)), (3, Unit(0, 12))], ids=str
)
def test_only_a_missing_shard_of_one_feature_is_computed_again(compute, cache, watched, index, shard):
    stores = stores_of(cache, list(SIZED), SIZED)
    feature = list(SIZED)[index]
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    lost = stores[feature].path(shard)
    lost.unlink()
    compute.work(watched).compute(ALL, stores)
    assert watched.items_seen() == list(range(shard.first, shard.last))
    assert all((path.stat().st_mtime_ns == time) == (path != lost) for path, time in written.items())
    assert stores[feature].sidecar(shard).features_in_pass == 1
    expected, _ = contents(compute([feature])[feature])
    assert_equal_to_rounding(contents(stores[feature])[0], expected)


def test_missing_shards_of_several_features_share_the_sweep_over_their_items(compute, cache, watched):
    stores = stores_of(cache, list(SIZED), SIZED)
    ones, fours = list(SIZED)[:2]
    for feature, shard in ((ones, Unit(5, 6)), (ones, Unit(11, 12)), (fours, Unit(4, 8))):
        stores[feature].path(shard).unlink()
    compute.work(watched).compute(ALL, stores)
    assert watched.items_seen() == [4, 5, 6, 7, 11]
    assert not any(store.missing(ALL) for store in stores.values())


def test_nothing_is_computed_where_nothing_is_missing(compute, cache, watched):
    compute.work(watched).compute(ALL, stores_of(cache, list(SIZED), SIZED))
    assert watched.seen == []


# --- a gradient that is not finite


class BrokenSample(DDPMDenoiser):
    """A NaN input for one item at one timestep."""

    marked: float
    timestep: int

    def noisy(self, latents, noise, t):
        noisy = super().noisy(latents, noise, t)
        noisy[(t == self.timestep) & (latents[:, 0, 0, 0] == self.marked)] = torch.nan
        return noisy


LOST = 7


@pytest.fixture
def broken(tiny_denoiser, tiny_items):
    encoded: Encoded = tiny_denoiser.encode(tiny_items.images, tiny_items.prompts, "model")
    corner = encoded.latents[:, 0, 0, 0]
    denoiser = copy.copy(tiny_denoiser)
    denoiser.__class__ = BrokenSample
    denoiser.marked = float(corner[LOST])
    assert int((corner == denoiser.marked).sum()) == 1
    denoiser.timestep = TIMESTEPS[1]
    return denoiser


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "items"), [("float32", 64), ("float16", 4), ("bfloat16", 64), ("int8", 4)])
def test_nan_at_one_timestep_of_one_item_is_named_and_harms_that_row_and_its_mean_only(compute, broken, dtype, items):
    stack, mean = (rows_feature(64, timesteps=timesteps, dtype=dtype) for timesteps in ("stack", "mean"))
    apart = rows_feature(64, layers="module", dtype=dtype)
    features = [stack, mean, apart, products_feature()]
    harmed, sound = compute(features, items, denoiser=broken), compute(features, items)
    others = np.arange(COUNT) != LOST
    for feature in features:
        (found, _), (expected, _) = contents(harmed[feature]), contents(sound[feature])
        assert StoredShards(harmed[feature], ALL).nonfinite() == [(LOST, TIMESTEPS[1])]
        assert StoredShards(sound[feature], ALL).nonfinite() == []
        for name in found:
            assert np.isfinite(found[name]).all()
            np.testing.assert_array_equal(found[name][others], expected[name][others])
            if feature is mean:
                assert not found[name][LOST].any()
                continue
            assert not found[name][LOST, 1].any()
            for step in (0, 2):
                assert found[name][LOST, step].any()
                np.testing.assert_array_equal(found[name][LOST, step], expected[name][LOST, step])


def test_nan_harms_one_row_only_where_layer_inputs_are_projected(compute, broken):
    feature = rows_feature(64, "factored")
    harmed, sound = compute([feature], denoiser=broken)[feature], compute([feature])[feature]
    assert StoredShards(harmed, ALL).nonfinite() == [(LOST, TIMESTEPS[1])]
    found, expected = (contents(store)[0]["rows"] for store in (harmed, sound))
    assert expected[LOST, 1].any()
    expected[LOST, 1] = 0
    np.testing.assert_array_equal(found, expected)


def test_lost_row_reads_as_zero_and_counts_nothing_in_the_error(compute, broken):
    feature, full = rows_feature(64, dtype="int8"), rows_feature(64)
    stores = compute([feature, full], denoiser=broken)
    rows = StoredRows(StoredShards(stores[feature], ALL), None, {"": 64})
    assert not rows.take(np.array([LOST]))[0, 1].any()
    exact = decode_rows(contents(stores[full])[0]).reshape(-1, 1, 64)
    there = exact.any(axis=(1, 2))
    found = rows.take(np.arange(COUNT)).reshape(-1, 1, 64)
    assert there.sum() == COUNT * STEPS - 1
    error = measured_error(exact[there], found[there])
    assert stores[feature].sidecar(ALL).row_error == pytest.approx(error, rel=1e-4)
