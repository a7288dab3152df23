"""The exact kernel, by the way that a run takes: matrices on disk, shared, resumed, and no gradient kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import AttrbenchError, Unavailable
from attrbench.evaluation import jobs
from attrbench.evaluation.feature_reader import FeatureReader
from attrbench.evaluation.plan import bytes_to_write, plan_lines
from attrbench.features import gram_computation as grams
from attrbench.features.gradient_gram import GradientGram
from attrbench.gradients import gram_pass as gram
from attrbench.gradients.gram_pass import GramPass
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.gradients.version import ENGINE_VERSION
from attrbench.store.cache_index import index_cache
from attrbench.store.garbage import find_garbage
from tests.methods.in_memory import (
    Small,
    SmallRun,
    SmallTask,
    batch_gradients,
    everything,
    scores_by_run,
    seeded,
    small_items,
)

SHAPE, COUNT, QUERIES = (2, 3, 3), 9, 4
OPTIONS = "timesteps=2,v=none,damping=0.3"
SOURCE = GradientSource(grid=TimestepGrid(kind="uniform", steps=2), noise="per-item")


class Drawing(Small):
    """With a sampling trajectory: the clean picture, dimmed step by step."""

    def trajectory(self, prompts, seeds):
        base = torch.stack([torch.full(self.latent_shape, float(seed) / 10) for seed in seeds]).to(self.dtype)
        return torch.stack([base * scale for scale in (0.2, 0.6, 1.0)], dim=1)


def network():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 1))


@pytest.fixture
def opened():
    model = Drawing(seeded(network), SHAPE, sampler=(900, 500, 100))
    queries = replace(small_items(QUERIES, SHAPE, seed=1), seeds=list(range(QUERIES)))
    return SmallTask(model, small_items(COUNT, SHAPE), queries)


@pytest.fixture
def stretches(monkeypatch):
    """Room for the largest parameter and little more."""
    items = COUNT + QUERIES
    monkeypatch.setattr(gram, "free_memory", lambda device: 24 * COUNT * items + 4 * items * 55 / gram.SHARE)


def phi(opened, source, items, name):
    samples = NoisySamples(source, opened.denoiser, Split(name, items))
    rows = batch_gradients(opened.denoiser, everything(samples)).unflatten(0, (len(samples.timesteps), -1))
    return rows.mean(0).numpy()


def ridge(train, asked, damping=0.3):
    kernel = train @ train.T
    lam = damping * np.trace(kernel) / len(kernel)
    return asked @ train.T @ np.linalg.inv(kernel + lam * np.eye(len(kernel)))


def journey(steps=3):
    return SOURCE.model_copy(update={"grid": TimestepGrid(kind="sampler", steps=steps), "latents": "trajectory"})


def test_scores_are_the_dense_kernels(opened, tmp_path):
    train, query = phi(opened, SOURCE, opened.train, "train"), phi(opened, SOURCE, opened.queries, "query")
    drawn = phi(opened, journey(), opened.queries, "query")
    specs = [f"trak:{OPTIONS}", f"journey-trak:{OPTIONS},sampling_steps=3"]
    found = scores_by_run(opened, tmp_path, *specs)
    for mine, asked in zip(found, (query, drawn), strict=True):
        expected = ridge(train, asked)
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("spec", ["trak", "d-trak", "relative-if", "renorm-if", "das", "journey-trak:sampling_steps=2"])
def test_the_exact_kernel_is_where_long_sketches_lead(opened, tmp_path, spec):
    joined = "," if ":" in spec else ":"
    exact, sketched = (f"{spec}{joined}timesteps=2,damping=0.3,v={v}" for v in ("none", 4096))
    mine, long = scores_by_run(opened, tmp_path, exact, sketched)
    scale = np.abs(mine).max()
    assert 0 < np.abs(mine - long).max() < 0.2 * scale


def sums(folder):
    """What is kept of unfinished matrices."""
    groups = [group for group in index_cache(folder / "cache").groups if group.told[0] == "sums of a Gram matrix"]
    return [entry for group in groups for entry in group.entries]


def test_no_gradient_lies_in_the_cache_and_what_does_is_told(opened, tmp_path):
    scores_by_run(opened, tmp_path, f"trak:{OPTIONS}")
    found = index_cache(tmp_path / "cache")
    assert sorted(feature.told for feature in found.groups) == [
        ("Gram matrix", "T=2 uniform, noise=per-item"),
        ("products of whole gradients", "T=2 uniform, noise=per-item"),
    ]
    kept = sum(feature.bytes for feature in found.groups)
    assert 8 * COUNT * (COUNT + QUERIES) < kept < 8 * COUNT * (COUNT + QUERIES) + 4096
    assert not sums(tmp_path)


def test_one_matrix_serves_all_dampings_methods_and_kinds_of_queries(opened, tmp_path):
    run = SmallRun(
        opened, tmp_path, f"trak:{OPTIONS}|1", f"relative-if:{OPTIONS}", f"journey-trak:{OPTIONS},sampling_steps=3"
    )
    (stage,) = run.plan.stages
    assert isinstance(stage.computation, grams.GramComputation)
    assert len([split for _, split in stage.stores if split == "query"]) == 2 and len(stage.methods) == 4
    assert len({store.folder for (_, split), store in stage.stores.items() if split == "train"}) == 1
    text = "\n".join(plan_lines(run.plan, run.world))
    assert "Gram matrix of the gradients of the loss" in text
    assert "1 pass over the training set: 4 methods served" in text
    assert bytes_to_write(run.plan, run.world) == 8 * COUNT * (COUNT + 2 * QUERIES)


def test_nothing_is_computed_twice_and_new_queries_take_products_alone(opened, tmp_path, monkeypatch):
    spec = f"trak:{OPTIONS}"
    (first,) = scores_by_run(opened, tmp_path, spec)
    known = []
    start = GramPass.start
    monkeypatch.setattr(GramPass, "start", lambda work, matrix: known.append(matrix) or start(work, matrix))
    (again,) = scores_by_run(opened, tmp_path, spec)
    assert known == []
    np.testing.assert_array_equal(first, again)
    other = SmallTask(opened.denoiser, opened.train, small_items(QUERIES, SHAPE, seed=7))
    (found,) = scores_by_run(other, tmp_path, spec)
    assert known == [True]
    expected = ridge(phi(other, SOURCE, other.train, "train"), phi(other, SOURCE, other.queries, "query"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_what_another_process_has_computed_meanwhile_is_not_computed_again(opened, tmp_path, monkeypatch):
    spec = f"trak:{OPTIONS}"
    run = SmallRun(opened, tmp_path, spec)
    claim = jobs.Claims.claim

    def late(claims, entry, wait):
        monkeypatch.setattr(jobs.Claims, "claim", claim)
        scores_by_run(opened, tmp_path, spec)
        monkeypatch.setattr(GramPass, "compute", lambda *_: pytest.fail("it is there already"))
        return claim(claims, entry, wait)

    monkeypatch.setattr(jobs.Claims, "claim", late)
    run.compute()
    (stage,) = run.plan.stages
    assert not any(stage.computation.lacks(unit, stage.stores, run.world) for unit in stage.units)


def test_a_damaged_matrix_is_computed_again(opened, tmp_path, caplog):
    spec = f"trak:{OPTIONS}"
    (expected,) = scores_by_run(opened, tmp_path, spec)
    for path in (tmp_path / "cache" / "features").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-8])
    (found,) = scores_by_run(opened, tmp_path, spec)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert "damaged" in caplog.text


@pytest.mark.usefixtures("stretches")
def test_a_run_that_was_cut_off_goes_on_behind_its_last_sweep(opened, tmp_path, monkeypatch):
    spec = f"trak:{OPTIONS}"
    (expected,) = scores_by_run(opened, tmp_path / "whole", spec)
    means = GramPass._means
    swept = []

    def cut_off(self, side, known, only, advance):
        if "2.weight" in only:
            raise KeyboardInterrupt
        swept.append(list(only))
        return means(self, side, known, only, advance)

    monkeypatch.setattr(GramPass, "_means", cut_off)
    with pytest.raises(KeyboardInterrupt):
        scores_by_run(opened, tmp_path, spec)
    assert swept and len(sums(tmp_path)) == 1
    done = {name for names in swept for name in names}
    monkeypatch.setattr(
        GramPass,
        "_means",
        lambda self, side, known, only, *rest: swept.append(only) or means(self, side, known, only, *rest),
    )
    swept.clear()
    (found,) = scores_by_run(opened, tmp_path, spec)
    assert swept and not done & {name for names in swept for name in names}
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not sums(tmp_path)


@pytest.mark.usefixtures("stretches")
def test_sums_that_cannot_be_kept_leave_those_of_the_sweep_before(opened, tmp_path, monkeypatch):
    spec, written = f"das:{OPTIONS}", []  # whose norms take a sweep of their own

    def full(part, arrays, write=grams.write_arrays):
        written.append(part)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        write(part, arrays)

    monkeypatch.setattr(grams, "write_arrays", full)
    with pytest.raises(AttrbenchError, match="No space left on device; free room there"):
        scores_by_run(opened, tmp_path, spec)
    (kept,) = sums(tmp_path)
    assert written[0].name.startswith(kept.path.name)
    monkeypatch.setattr(GramPass, "_measure", lambda *_: pytest.fail("the norms are known"))
    (found,) = scores_by_run(opened, tmp_path, spec)
    assert np.isfinite(found).all() and not sums(tmp_path)


@pytest.mark.usefixtures("stretches")
def test_damaged_sums_are_begun_anew_and_unused_ones_can_be_removed(opened, tmp_path, monkeypatch):
    spec = f"trak:{OPTIONS}"
    (expected,) = scores_by_run(opened, tmp_path / "whole", spec)
    write = grams.KeptSums.write
    monkeypatch.setattr(grams.KeptSums, "write", lambda kept, sums: write(kept, sums) or pytest.fail("cut off"))
    with pytest.raises(pytest.fail.Exception):
        scores_by_run(opened, tmp_path, spec)
    monkeypatch.setattr(grams.KeptSums, "write", write)
    found = index_cache(tmp_path / "cache")
    (kept,) = sums(tmp_path)
    assert [r.path for r in find_garbage(found, ENGINE_VERSION, older_than=0.0).waiting if r.path == kept.path] == [
        kept.path
    ]
    kept.path.write_bytes(kept.path.read_bytes()[:-8])
    (again,) = scores_by_run(opened, tmp_path, spec)
    np.testing.assert_array_equal(again, expected)


def test_queries_without_a_trajectory_cost_journey_trak_alone(opened, tmp_path):
    opened.queries = replace(opened.queries, seeds=None)
    specs = (f"trak:{OPTIONS}", f"journey-trak:{OPTIONS},sampling_steps=3")
    run = SmallRun(opened, tmp_path, *specs).compute()
    trak, journey = run.requests
    with pytest.raises(Unavailable, match="no sampling trajectory"):
        run.features(journey)
    (feature,) = run.features(trak).train
    assert FeatureReader(run.world, run.features(trak)).train()[feature].matrix.shape == (COUNT, COUNT)


def test_memory_that_runs_out_is_a_line_with_advice(opened, tmp_path, monkeypatch):
    def ran_out(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(gram, "inner_products", ran_out)
    run = SmallRun(opened, tmp_path, f"trak:{OPTIONS}", "trak:timesteps=2,v=16").compute()
    exact, sketched = run.requests
    with pytest.raises(AttrbenchError, match=rf"memory ran out over the Gram matrix of {COUNT} items: use a sketch"):
        run.features(exact)
    assert run.features(sketched)


def test_a_matrix_is_of_the_same_parameters_on_both_sides():
    with pytest.raises(ValueError, match="of the same parameters"):
        GradientGram(source=SOURCE, queries=SOURCE.model_copy(update={"parameters": "lora"}))


def test_costs_and_lost_gradients_are_reported(opened, tmp_path):
    run = SmallRun(opened, tmp_path, f"trak:{OPTIONS}").compute()
    read = FeatureReader(run.world, run.features(run.requests[0]))
    assert read.cache_seconds() > 0
    assert (read.query_seconds() > 0).all() and read.query_seconds().shape == (QUERIES,)
    assert read.rows_on_disk() == read.shared_bytes() == 0
    assert read.nonfinite() == []


def test_a_method_whose_gradients_have_no_room_gives_up_and_the_others_go_on(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(gram, "SHARE", 0.0)
    run = SmallRun(opened, tmp_path, f"trak:{OPTIONS}", "trak:timesteps=2,v=16").compute()
    exact, sketched = run.requests
    with pytest.raises(Exception, match=r"use a sketch \(v=\.\.\.\)"):
        run.features(exact)
    (feature,) = run.features(sketched).train
    assert FeatureReader(run.world, run.features(sketched)).train()[feature].count == COUNT
