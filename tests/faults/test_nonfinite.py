"""Gradients that are NaN or infinite: the run is partial and names them, and no other number changes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from attrbench.contracts.options import Options
from attrbench.contracts.record import Record
from attrbench.contracts.task import Items, OpenTask, Task, TaskMeta
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.plugins.registry import Plugin, load_registry
from attrbench.store.fingerprint import fingerprint
from attrbench.store.item_store import ItemStore
from attrbench.store.shards import FeatureStore, Unit
from attrbench.store.stored_shards import StoredShards
from tests.faults.conftest import records_of
from tests.registering import plugin_of

TRAIN, QUERIES = 70, 5  # two shards of the training set
TIMESTEPS = (999, 874)  # of two, cubic
NAN, INF = (66, 874, float("nan")), (3, 999, float("inf"))
METHODS = (
    "dmin:v=64,timesteps=2",
    "dmin:v=64,timesteps=2,dtype=int8",
    "grad-dot:timesteps=2",
    "dmin:v=none,timesteps=2",
    "trak:v=none,timesteps=2,grid=cubic",
)


def images(count: int, seed: int) -> Items:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    groups = [str(i % 3) for i in range(count)]
    return Items(pixels, groups, [""] * count, fingerprint([seed, count]))


SPLITS = {"train": images(TRAIN, 0), "query": images(QUERIES, 1)}


class PoisonedDenoiser(DDPMDenoiser):
    """A DDPM whose target has one bad pixel for some images at some timesteps."""

    poison: list[tuple[torch.Tensor, int, float]]

    def target(self, latents, noise, t):
        target = super().target(latents, noise, t).clone()
        for image, timestep, value in self.poison:
            hit = (latents == image).flatten(1).all(dim=1) & (t == timestep)
            target[hit, 0, 4, 4] = value
        return target


class OpenPoisoned(OpenTask):
    train, queries = SPLITS["train"], SPLITS["query"]

    def __init__(self, folder: Path, poison: list[tuple[str, int, int, float]]) -> None:
        self._folder, self._poison = folder, poison

    @cached_property
    def denoiser(self) -> PoisonedDenoiser:
        denoiser = PoisonedDenoiser(self._folder, torch.device("cpu"))
        encoded = {split: denoiser.encode(items.images, items.prompts, "model") for split, items in SPLITS.items()}
        denoiser.poison = [(encoded[split].latents[item], t, value) for split, item, t, value in self._poison]
        return denoiser


@dataclass
class Ran:
    code: int
    said: str
    records: dict[str, Record]
    cache: Path

    def arrays(self, split: str, **feature: object) -> dict[str, np.ndarray]:
        """All items of the one store whose feature has these fields."""
        for about in (self.cache / "features").glob("*/feature.json"):
            description = json.loads(about.read_bytes())["description"]
            fields = description["feature"] | {"kind": description["kind"]}
            if not feature.items() <= fields.items():
                continue
            keys = SPLITS[split].keys
            whole, store = Unit(0, len(keys)), ItemStore(self.cache, description, keys)
            if description["kind"] == "GradientGram":
                store = FeatureStore(self.cache, description, 1 << (len(keys) - 1).bit_length())
            if not store.lacks(whole):
                shards = StoredShards(store, whole)
                return {name: shards.array(name) for name in next(shards.blocks())[1]}
        raise AssertionError(f"no features {feature} of {split}")


@pytest.fixture
def run(monkeypatch, tiny_folder, attrbench, tmp_path):
    """Runs all methods on the task with some gradients poisoned: (split, item, timestep, value)."""

    def run(name: str, *poison: tuple[str, int, int, float], again: bool = False) -> Ran:
        class Poisoned(Task[Options]):
            Options = Options
            meta = TaskMeta(
                name="poisoned-mini",
                version=1,
                summary="random pixels",
                model="random weights",
                dataset="random",
                license="none",
                train_items=TRAIN,
                memory="1 GB",
            )

            def open(self, workspace):
                return OpenPoisoned(tiny_folder, list(poison))

        plugin = plugin_of(tasks=[Poisoned])
        registry = load_registry()
        registry.load(Plugin("poisoned", "attrbench-tests", "1"), lambda: plugin)
        assert "poisoned-mini" in registry.names("task")
        monkeypatch.setattr("attrbench.plugins.registry.registry", lambda: registry)
        methods = [part for method in METHODS for part in ("-m", method)]
        cache, out = tmp_path / name / "cache", tmp_path / name / ("again" if again else "out")
        done = attrbench("run", *methods, "-t", "poisoned-mini", "--device", "cpu", "--cache", cache, "--out", out)
        return Ran(done.code, done.out + done.err, records_of(out), cache)

    return run


def assert_named(ran: Ran, *lost: tuple[str, int, int]) -> None:
    """By exit code, status, record and command line, for every method."""
    assert ran.code == 3
    assert set(ran.records) == set(METHODS)
    lost_queries = {item for split, item, _ in lost if split == "query"}
    for label, record in ran.records.items():
        assert record.status == "partial", label
        assert sorted(record.coverage.nonfinite) == sorted(lost), label
        equal = lost_queries if label.startswith("trak") else set()  # the mean over timesteps is lost with one of them
        for query, ranking in enumerate(record.ranking):
            assert sorted(set(ranking)) == ([-1] if query in equal else list(range(TRAIN))), label
        assert any("have no ranking" in note for note in record.notes) == bool(equal)
        assert all(np.isfinite(metric.per_query).all() for metric in record.metrics)
        (line,) = [line for line in ran.said.splitlines() if line.startswith(f"{label} on ")]
        for split, item, t in lost:
            assert f"{split} item {item} at timestep {t}" in line


def assert_only_lost(split: str, ran: Ran, sound: Ran, *lost: tuple[int, int]) -> None:
    """Rows of lost (item, step) are zero, all others bit for bit those of the sound run."""
    kept = np.ones(sound.arrays(split, kind="GradientRows", dtype="float32")["norms"].shape, bool)
    for pair in lost:
        kept[pair] = False
    dtypes = ("float32", "int8") if split == "train" else ("float32",)
    for dtype in dtypes:
        mine, reference = (r.arrays(split, kind="GradientRows", dtype=dtype) for r in (ran, sound))
        assert mine.keys() == reference.keys()
        for name, array in mine.items():
            assert np.array_equal(array[kept], reference[name][kept]), (dtype, name)
            assert not array[~kept].any()
            assert np.isfinite(array.astype("f8")).all()


@pytest.fixture
def sound(run) -> Ran:
    ran = run("sound")
    assert ran.code == 0
    assert {record.status for record in ran.records.values()} == {"complete"}
    assert "NaN" not in ran.said
    return ran


def test_lost_training_gradients_are_named_and_change_no_other_number(run, sound):
    """One NaN and one infinite, in different shards and at different timesteps."""
    poison = [("train", *NAN), ("train", *INF)]
    ran = run("poisoned", *poison)
    assert_named(ran, ("train", *NAN[:2]), ("train", *INF[:2]))
    lost = [(item, TIMESTEPS.index(t)) for item, t, _ in (NAN, INF)]
    assert_only_lost("train", ran, sound, *lost)
    assert_only_lost("query", ran, sound)
    mine, reference = (r.arrays("train", kind="GradientProducts") for r in (ran, sound))
    kept = np.ones((TRAIN, len(TIMESTEPS)), bool)
    for pair in lost:
        kept[pair] = False
    for name in ("products", "norms"):
        assert np.array_equal(mine[name][kept], reference[name][kept])
        assert not mine[name][~kept].any()
    assert np.array_equal(mine["query_norms"], reference["query_norms"])
    whole = [item for item in range(TRAIN) if item not in dict(lost)]
    mine, reference = (r.arrays("train", kind="GradientGram")["gram"] for r in (ran, sound))
    np.testing.assert_array_equal(mine[np.ix_(whole, whole)], reference[np.ix_(whole, whole)])
    assert not mine[list(dict(lost))].any() and not mine[:, list(dict(lost))].any()
    assert_named(run("poisoned", *poison, again=True), ("train", *NAN[:2]), ("train", *INF[:2]))  # read back


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_lost_query_gradient_is_named_and_changes_no_other_number(run, sound, value):
    query, step = 2, 1
    ran = run("poisoned", ("query", query, TIMESTEPS[step], value))
    assert_named(ran, ("query", query, TIMESTEPS[step]))
    assert_only_lost("query", ran, sound, (query, step))
    assert_only_lost("train", ran, sound)
    mine, reference = (r.arrays("train", kind="GradientProducts") for r in (ran, sound))
    kept = np.ones((TRAIN, len(TIMESTEPS), QUERIES), bool)
    kept[:, step, query] = False
    assert np.array_equal(mine["products"][kept], reference["products"][kept])
    assert not mine["products"][~kept].any()
    assert np.array_equal(mine["norms"], reference["norms"])
    mine, reference = (r.arrays("query", kind="GradientGram")["cross"] for r in (ran, sound))
    assert not mine[query].any()
    np.testing.assert_array_equal(np.delete(mine, query, axis=0), np.delete(reference, query, axis=0))
    for label, record in ran.records.items():
        others = [q for q in range(QUERIES) if q != query]
        assert [record.ranking[q] for q in others] == [sound.records[label].ranking[q] for q in others]


def test_an_item_and_a_query_lost_at_once_are_both_named(run):
    ran = run("poisoned", ("train", *NAN), ("query", 0, *INF[1:]))
    assert_named(ran, ("train", *NAN[:2]), ("query", 0, INF[1]))


def test_a_gradient_lost_at_every_timestep_leaves_an_item_that_scores_zero(run):
    lost = [("train", 0, t) for t in TIMESTEPS]
    assert_named(run("poisoned", *((*where, float("nan")) for where in lost)), *lost)
