"""Features of the twelve tiny items by one pass, and their whole gradients to compare with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from attrbench.contracts.computation import Engine
from attrbench.contracts.gradient_source import GradientSource, Sketch, TimestepGrid
from attrbench.contracts.method_results import Transformed
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.gradient_pass import GradientPass, Split
from attrbench.gradients.sketching import forms as sketching
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.store.encoding import decode_rows
from attrbench.store.shards import FeatureStore, Unit

SOURCE = GradientSource(grid=TimestepGrid(steps=3), noise="per-item")
TIMESTEPS = (999, 962, 703)
COUNT, STEPS = 12, 3
ALL = Unit(0, COUNT)
FORMS = [name for name, form in sketching.FORMS.items() if not form.projects_inputs]
"""Forms of sketches of whole gradients."""


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
        self.work(denoiser, engine, features[0].projection).compute(ALL, stores)
        return stores

    def work(self, denoiser=None, engine=None, projection=None):
        split, factor = Split("train", self.items), factors(self.queries)
        engine, denoiser = engine or Engine(), denoiser or self.denoiser
        return GradientPass(SOURCE, denoiser, split, engine, factor, projection=projection)

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


def sketched(vectors, length, form="rotation", seed=42):
    """[..., v] sketches of [..., p] vectors, on their own."""
    flat = vectors.flatten(0, -2).float()
    accumulator = sketching.sketch_accumulator(form, [length], seed, flat.shape[1])
    accumulator.start(len(flat), flat.dtype, flat.device)
    accumulator.add(0, flat)
    return accumulator.result(length).reshape(*vectors.shape[:-1], -1).double().numpy()


def measured_error(exact, stored):
    norms = np.linalg.norm(exact.astype("f8"), axis=2)
    return np.sqrt(np.mean((np.linalg.norm(stored.astype("f8") - exact, axis=2) / norms) ** 2))


def assert_equal_to_rounding(found, expected):
    """Other batches round otherwise, which may move an int8 code by one."""
    assert found.keys() == expected.keys()
    for name in found:
        if found[name].dtype == np.float32:
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-4 * np.abs(expected[name]).max())
        else:
            assert np.abs(found[name].astype(int) - expected[name]).max() <= 1
