import copy
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from attrbench.contracts.computation import Engine
from attrbench.contracts.denoiser import Encoded
from attrbench.contracts.gradient_source import GradientSource, Sketch, TimestepGrid
from attrbench.contracts.method_results import Transformed
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.gradient_pass import GradientPass, Split
from attrbench.gradients.layer_blocks import layer_blocks, layer_columns
from attrbench.gradients.sketching.reference import sketch_accumulator
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.models.noise import seed_of
from attrbench.store.encoding import decode_rows, encode_rows
from attrbench.store.shards import FeatureStore, Unit
from attrbench.store.stored_rows import StoredRows
from attrbench.store.stored_shards import StoredShards

SOURCE = GradientSource(grid=TimestepGrid(steps=3), noise="per-item")
TIMESTEPS = (999, 962, 703)
COUNT, STEPS = 12, 3
ALL = Unit(0, COUNT)
HUGE = 10**6
FORMS = ["rotation", "permutation", "rademacher", "gaussian"]
DTYPES = ["float32", "float16", "bfloat16", "int8"]


def rows_feature(length=64, form="rotation", seed=42, **changes):
    return GradientRows(source=SOURCE, sketch=Sketch(length=length, seed=seed, form=form), **changes)


def products_feature(**changes):
    return GradientProducts(source=SOURCE, **changes)


def factors(queries):
    """What a pass multiplies with, for products of every cut."""
    return {products_feature(layers=layers): Transformed(queries) for layers in ("all", "module", "parameter")}


def stores_of(root, features, items=64):
    sizes = items if isinstance(items, dict) else dict.fromkeys(features, items)
    return {feature: FeatureStore(root, {"feature": repr(feature)}, sizes[feature]) for feature in features}


def contents(store):
    """{array: all items} and the sidecars of a store."""
    shards = store.shards(ALL)
    blocks = [store.read(shard) for shard in shards]
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0] if name != "query_norms"}
    return joined, [store.sidecar(shard) for shard in shards]


@dataclass
class Pass:
    """Computes features of the twelve tiny items into a new cache each time."""

    root: Path
    denoiser: DDPMDenoiser
    items: object
    queries: torch.Tensor
    runs: int = 0

    def __call__(self, features, items=64, denoiser=None, engine=None):
        self.runs += 1
        stores = stores_of(self.root / str(self.runs), features, items)
        self.work(denoiser, engine).compute(ALL, stores)
        return stores

    def work(self, denoiser=None, engine=None):
        split = Split("train", self.items)
        return GradientPass(SOURCE, denoiser or self.denoiser, split, engine or Engine(), factors(self.queries))

    def rows(self, feature, **options):
        """[n, T, w] float32 rows and norms of one feature."""
        arrays, _ = contents(self([feature], **options)[feature])
        return decode_rows(arrays), arrays["norms"]


@pytest.fixture
def compute(tmp_path, tiny_denoiser, tiny_items, queries):
    return Pass(tmp_path, tiny_denoiser, tiny_items, queries)


@pytest.fixture(scope="module")
def queries(tiny_denoiser, tiny_items):
    """[T, 4, p]: the whole gradients of the first four items, as queries."""
    return GradientPass(SOURCE, tiny_denoiser, Split("query", tiny_items), Engine()).whole(Unit(0, 4))


@pytest.fixture(scope="module")
def whole(tiny_denoiser, tiny_items):
    """[n, T, p] float64 raw gradients of all items."""
    return GradientPass(SOURCE, tiny_denoiser, Split("train", tiny_items), Engine()).whole(ALL).transpose(0, 1).double()


@pytest.fixture(scope="module")
def layers(tiny_denoiser):
    """The layers of the network by how they are cut, each with the coordinates of the gradient that it holds."""
    parameters = tiny_denoiser.attributed_parameters("all")
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    ends = np.cumsum([0, *sizes.values()]).tolist()
    offsets = dict(zip(sizes, ends, strict=False))
    found = {}
    for cut in ("module", "parameter"):
        groups = {}
        for name in sizes:
            layer = name.rpartition(".")[0] if cut == "module" else name
            groups.setdefault(layer, []).extend(range(offsets[name], offsets[name] + sizes[name]))
        found[cut] = groups, layer_blocks(offsets, sizes, cut)
    return found


def sketched(vectors, length, form="rotation", seed=42):
    """[..., v] sketches of [..., p] vectors, on their own."""
    flat = vectors.flatten(0, -2).float()
    accumulator = sketch_accumulator(form, [length], seed, flat.shape[1])
    accumulator.start(len(flat), flat.dtype, flat.device)
    accumulator.add(0, flat)
    return accumulator.result(length).reshape(*vectors.shape[:-1], -1).double().numpy()


def measured_error(exact, stored):
    norms = np.linalg.norm(exact.astype("f8"), axis=2)
    return np.sqrt(np.mean((np.linalg.norm(stored.astype("f8") - exact, axis=2) / norms) ** 2))


# --- one pass, many features


@pytest.mark.slow
def test_features_of_one_pass_equal_each_alone(compute):
    features = [
        rows_feature(64),
        rows_feature(100),
        rows_feature(64, seed=7),
        rows_feature(64, timesteps="mean"),
        rows_feature(64, dtype="int8"),
        rows_feature(100, timesteps="mean", dtype="float16"),
        rows_feature(64, layers="module"),
        rows_feature(100, layers="module", dtype="bfloat16"),
        rows_feature(64, layers="parameter", timesteps="mean"),
        *(rows_feature(64, form) for form in FORMS[1:]),
        rows_feature(100, "permutation"),
        GradientRows(source=SOURCE, sketch=None),
        GradientRows(source=SOURCE, sketch=None, timesteps="mean", dtype="int8"),
        products_feature(),
        products_feature(layers="module"),
    ]
    assert len(set(features)) == len(features)
    together = compute(features)
    for feature in features:
        expected, _ = contents(compute([feature])[feature])
        found, _ = contents(together[feature])
        assert found.keys() == expected.keys()
        for name in found:
            assert np.array_equal(found[name], expected[name]), (feature, name)


@pytest.mark.parametrize(
    ("form", "length"), [*((form, 64) for form in FORMS), ("rotation", 1000), ("permutation", 1000)]
)
def test_rows_are_the_sketches_of_the_whole_gradients(compute, whole, form, length):
    rows, norms = compute.rows(rows_feature(length, form))
    expected = whole.norm(dim=2)
    np.testing.assert_allclose(norms, expected, rtol=1e-4)
    np.testing.assert_allclose(rows, sketched(whole / expected[:, :, None], length, form), atol=2e-5)


# --- timesteps=mean


@pytest.mark.parametrize(
    ("sketch", "batch_size"),
    [(None, None), (Sketch(length=64), None), (Sketch(length=64), 7), (Sketch(length=100, form="permutation"), None)],
)
def test_mean_is_the_mean_over_timesteps_of_the_raw_rows_and_its_norm_that_of_the_sketch(compute, sketch, batch_size):
    stack, norms = compute.rows(GradientRows(source=SOURCE, sketch=sketch))
    mean, mean_norms = compute.rows(
        GradientRows(source=SOURCE, sketch=sketch, timesteps="mean"), engine=Engine(batch_size=batch_size)
    )
    expected = (stack.astype("f8") * norms[:, :, None]).mean(axis=1, keepdims=True)
    length = np.linalg.norm(expected, axis=2)
    assert (mean.shape, mean_norms.shape) == ((COUNT, 1, stack.shape[2]), (COUNT, 1))
    np.testing.assert_allclose(mean_norms, length, rtol=1e-4)
    np.testing.assert_allclose(mean, expected / length[:, :, None], atol=2e-5)


def test_mean_of_layers_is_the_mean_of_their_rows(compute):
    stack, norms = compute.rows(rows_feature(64, layers="module"))
    mean, mean_norms = compute.rows(rows_feature(64, layers="module", timesteps="mean"))
    expected = (stack.astype("f8") * norms[:, :, None]).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(mean * mean_norms[:, :, None], expected, atol=2e-5 * mean_norms.max())


# --- layers


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", ["module", "parameter"])
def test_columns_of_a_layer_are_the_sketch_of_its_gradient_under_its_own_seed(compute, whole, layers, cut, form):
    length = 64
    rows, norms = compute.rows(rows_feature(length, form, layers=cut))
    np.testing.assert_allclose(norms, whole.norm(dim=2), rtol=1e-4)
    groups, blocks = layers[cut]
    columns = layer_columns(blocks, length)
    assert list(columns) == list(groups)
    unit = whole / whole.norm(dim=2, keepdim=True)
    for index, (name, coordinates) in enumerate(groups.items()):
        mine = sketched(unit[:, :, coordinates], min(length, len(coordinates)), form, seed_of("layer", 42, index))
        np.testing.assert_allclose(rows[:, :, columns[name]], mine, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("length", [8, 64, HUGE])
@pytest.mark.parametrize("cut", ["module", "parameter"])
def test_columns_of_the_layers_cover_the_row_once(compute, whole, cut, length):
    rows, _ = compute.rows(rows_feature(length, layers=cut))
    columns = layer_columns(compute.work().setting.layout.layers(cut), length)
    assert [column for part in columns.values() for column in range(rows.shape[2])[part]] == list(range(rows.shape[2]))
    assert (rows.shape[2] == whole.shape[2]) == (length == HUGE)


@pytest.mark.parametrize("form", ["rotation", "permutation"])
@pytest.mark.parametrize("cut", ["module", "parameter"])
def test_inner_products_of_a_layer_whose_sketch_is_longer_are_exact(compute, whole, layers, cut, form):
    rows, norms = compute.rows(rows_feature(HUGE, form, layers=cut))
    groups, blocks = layers[cut]
    assert rows.shape[2] == whole.shape[2]
    raw = rows.astype("f8") * norms[:, :, None]
    for name, part in layer_columns(blocks, HUGE).items():
        direct = whole[:, :, groups[name]].numpy()
        scale = np.einsum("it,jt->ijt", *[np.linalg.norm(whole.numpy(), axis=2)] * 2)
        expected = np.einsum("itp,jtp->ijt", direct, direct) / scale
        found = np.einsum("itp,jtp->ijt", raw[:, :, part], raw[:, :, part]) / scale
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("cut", "batch_size"), [("module", None), ("parameter", None), ("parameter", 7)])
def test_products_of_layers_are_the_direct_ones_and_add_up_to_the_plain_ones(
    compute, whole, layers, queries, cut, batch_size
):
    features = [products_feature(), products_feature(layers=cut)]
    stores = compute(features, engine=Engine(batch_size=batch_size))
    plain, apart = (contents(stores[feature])[0] for feature in features)
    values = apart["products"].reshape(COUNT, STEPS, queries.shape[1], -1)
    scale = np.einsum("it,tm->itm", whole.norm(dim=2).numpy(), queries.norm(dim=2).numpy())
    np.testing.assert_allclose(values.sum(3) / scale, plain["products"] / scale, atol=1e-5)
    np.testing.assert_array_equal(apart["norms"], plain["norms"])
    groups, blocks = layers[cut]
    assert values.shape[3] == len(groups) == len(blocks)
    for index, coordinates in enumerate(groups.values()):
        direct = torch.einsum("itp,tmp->itm", whole[:, :, coordinates], queries[:, :, coordinates].double()).numpy()
        np.testing.assert_allclose(values[..., index] / scale, direct / scale, atol=1e-5)


def test_matrices_of_one_lora_module_are_one_layer():
    sizes = {
        "x.to_q.lora_A.default.weight": 8,
        "x.to_k.lora_A.default.weight": 6,
        "x.to_q.lora_B.default.weight": 12,
        "x.to_k.lora_B.default.weight": 4,
        "y.emb.lora_embedding_A.default": 3,
        "y.emb.lora_embedding_B.default": 2,
        "y.proj.lora_A.weight": 5,
        "y.proj.lora_magnitude_vector.default.weight": 1,
        "y.norm.weight": 2,
        "y.norm.bias": 2,
    }
    offsets = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    blocks = layer_blocks(offsets, sizes, "module")
    assert [(block.name, dict(block.places), block.size) for block in blocks] == [
        ("x.to_q", {0: 0, 14: 8}, 20),
        ("x.to_k", {8: 0, 26: 6}, 10),
        ("y.emb", {30: 0, 33: 3}, 5),
        ("y.proj", {35: 0, 40: 5}, 6),
        ("y.norm", {41: 0, 43: 2}, 4),
    ]
    assert [block.name for block in layer_blocks(offsets, sizes, "parameter")] == list(sizes)
    (everything,) = layer_blocks(offsets, sizes, "all")
    assert (dict(everything.places), everything.size) == ({o: o for o in offsets.values()}, 45)


class DoubleDenoiser(DDPMDenoiser):
    def encode(self, images, prompts, image_range):
        return Encoded(super().encode(images, prompts, image_range).latents.double())


@pytest.mark.parametrize(
    "feature",
    [
        rows_feature(64),
        rows_feature(64, "permutation", layers="module"),
        rows_feature(64, "gaussian", timesteps="mean"),
        products_feature(),
    ],
    ids=["rotation", "permutation", "gaussian", "products"],
)
def test_network_in_double_precision_gives_the_same_features(compute, tiny_denoiser, feature):
    double = copy.deepcopy(tiny_denoiser)
    double.__class__ = DoubleDenoiser
    double.module.double()
    found, _ = contents(compute([feature], denoiser=double)[feature])
    expected, _ = contents(compute([feature])[feature])
    assert_equal_to_rounding(found, expected)


# --- storage types


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("timesteps", ["stack", "mean"])
@pytest.mark.parametrize("length", [64, 1500])
def test_rows_of_fewer_bits_are_the_full_ones_encoded_and_the_sidecar_tells_their_error(
    compute, dtype, timesteps, length
):
    full, less = (rows_feature(length, timesteps=timesteps, dtype=name) for name in ("float32", dtype))
    stores = compute([full, less])
    (exact, about_exact), (stored, about) = contents(stores[full]), contents(stores[less])
    expected = encode_rows(exact["rows"], dtype)
    for name in expected:
        np.testing.assert_array_equal(stored[name], expected[name])
    np.testing.assert_array_equal(stored["norms"], exact["norms"])
    assert about_exact[0].row_error == 0
    error = measured_error(exact["rows"], decode_rows(stored))
    assert about[0].row_error == pytest.approx(error, rel=1e-4)
    assert 1e-5 < error < {"float16": 1e-3, "bfloat16": 4e-3, "int8": 2e-2}[dtype]


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


def assert_equal_to_rounding(found, expected):
    """Other batches round otherwise, which may move an int8 code by one."""
    assert found.keys() == expected.keys()
    for name in found:
        if found[name].dtype == np.float32:
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-4 * np.abs(expected[name]).max())
        else:
            assert np.abs(found[name].astype(int) - expected[name]).max() <= 1


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
