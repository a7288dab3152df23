"""Journey-TRAK (arXiv 2312.06205): with a sampler that never errs it is TRAK."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import Unavailable, UsageError
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.samples import NoisySamples, Split
from attrbench_methods.kernel.journey_trak import JourneyOptions, JourneyTRAK
from attrbench_methods.kernel.ridge import RidgeOptions
from attrbench_methods.kernel.trak import TRAK
from tests.methods.in_memory import (
    InMemory,
    Small,
    SmallRun,
    SmallTask,
    batch_gradients,
    context,
    everything,
    raw_rows,
    scores_by_run,
    seeded,
    small_items,
)

SHAPE = (2, 3, 3)
N, M, T = 9, 4, 4
UNIFORM = (0, 250, 500, 750)


def network():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 1))


class Certain(Small):
    """A sampler that takes the picture for the clean one at every step."""

    seen_queries = None

    def trajectory(self, prompts, seeds):
        images = np.stack([self.seen_queries.images[self.seen_queries.seeds.index(seed)] for seed in seeds])
        return self.encode(images, prompts, "model").latents[:, None].expand(-1, len(self.sampler), -1, -1, -1)


class Wandering(Certain):
    """One that comes to it in equal steps from nothing."""

    def trajectory(self, prompts, seeds):
        shares = torch.linspace(0.2, 1, len(self.sampler)).double()[None, :, None, None, None]
        return shares * super().trajectory(prompts, seeds)


def task(kind, sampler=UNIFORM[::-1], seeds=(11, 12, 13, 14)):
    denoiser = kind(seeded(network), SHAPE, sampler)
    queries = small_items(M, SHAPE, 1, None if seeds is None else list(seeds))
    denoiser.seen_queries = queries
    return SmallTask(denoiser, small_items(N, SHAPE), queries)


def journey(opened, folder, **options):
    steps = {} if "at" in options else {"sampling_steps": T}
    named = {"timesteps": T, "v": "none", **steps, **options}
    spec = ",".join(f"{key}={value}" for key, value in named.items())
    return scores_by_run(opened, folder, f"journey-trak:{spec}")[0]


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("v", ["none", 32])
@pytest.mark.parametrize("sampler", [UNIFORM, UNIFORM[::-1]], ids=["rising", "falling"])
def test_a_trajectory_that_is_the_picture_throughout_gives_the_scores_of_trak(tmp_path, sampler, v):
    """With the timesteps of trak's grid, in any order, and so its noises."""
    opened = task(Certain, sampler)
    (trak,) = scores_by_run(opened, tmp_path, f"trak:timesteps={T},v={v}")
    assert_close(journey(opened, tmp_path, v=v), trak)
    assert np.abs(journey(task(Wandering, sampler), tmp_path / "other", v=v) - trak).max() > 0.01 * np.abs(trak).max()


def test_scores_are_the_kernels_of_the_mean_gradient_along_the_trajectory(tmp_path):
    opened = task(Wandering)
    train, asked = dense_gradients(opened)
    gram = train @ train.T
    damping = 0.1 * np.trace(gram) / N
    expected = asked.mean(axis=1) @ train.T @ np.linalg.inv(gram + damping * np.eye(N))
    assert_close(journey(opened, tmp_path), expected)


def dense_gradients(opened):
    """[n, p] mean gradients of the training set, [m, T, p] gradients of the queries along their trajectories."""
    train = GradientSource(grid=TimestepGrid(kind="uniform", steps=T), noise="per-item")
    query = train.model_copy(update={"grid": TimestepGrid(kind="sampler", steps=T), "latents": "trajectory"})
    found = []
    for source, name, items in ((train, "train", opened.train), (query, "query", opened.queries)):
        batch = everything(NoisySamples(source, opened.denoiser, Split(name, items)))
        rows = batch_gradients(opened.denoiser, batch).numpy()
        found.append(rows.reshape(T, len(items), -1).transpose(1, 0, 2))
    return found[0].mean(axis=1), found[1]


def test_scores_are_the_mean_of_the_scores_of_each_step(tmp_path):
    """The kernel is linear in the query."""
    opened = task(Wandering)
    train, asked = dense_gradients(opened)
    method = JourneyTRAK(JourneyOptions())
    scorer = method.fit(InMemory(train).train(method), context())
    each = np.stack([scorer.scores(InMemory(asked[:, step]).query(method)) for step in range(T)])
    assert each.std(axis=0).max() > 0.1 * np.abs(each).max()
    assert_close(scorer.scores(InMemory(asked.mean(axis=1)).query(method)), each.mean(axis=0))
    assert_close(journey(opened, tmp_path), each.mean(axis=0))


def test_at_takes_the_estimate_of_one_step_with_several_noises(tmp_path):
    opened = task(Wandering)
    draws = 3
    found = journey(opened, tmp_path, at=480, draws=draws)
    source = JourneyTRAK(JourneyOptions(timesteps=T, at=480, draws=draws)).features().query[0].source
    samples = NoisySamples(source, opened.denoiser, Split("query", opened.queries))
    batch = everything(samples)
    assert batch.t.tolist() == [480] * draws * M
    clean = opened.denoiser.trajectory([""] * M, opened.queries.seeds)[:, 1]  # 500 is the nearest step
    torch.testing.assert_close(batch.noisy, 0.52 * clean.repeat(draws, 1, 1, 1) + 0.48 * batch.target)
    assert len({row.numpy().tobytes() for row in batch.target}) == draws * M
    asked = batch_gradients(opened.denoiser, batch).numpy().reshape(draws, M, -1).mean(axis=0)
    train, _ = dense_gradients(opened)
    method = JourneyTRAK(JourneyOptions())
    scorer = method.fit(InMemory(train).train(method), context())
    assert_close(found, scorer.scores(InMemory(asked).query(method)))


def test_a_query_has_the_gradient_of_its_own_trajectory_wherever_it_stands(tmp_path):
    opened = task(Wandering)
    turned = task(Wandering)
    order = [2, 0, 3, 1]
    images, seeds = opened.queries.images[order], [opened.queries.seeds[i] for i in order]
    turned.queries = replace(opened.queries, images=images, seeds=seeds, fingerprint="turned")
    turned.denoiser.seen_queries = turned.queries
    options = {"noise": "shared"}
    assert_close(journey(turned, tmp_path / "b", **options), journey(opened, tmp_path / "a", **options)[order])


def test_pictures_without_seeds_are_unavailable(tmp_path):
    with pytest.raises(Unavailable, match="seeds"):
        journey(task(Certain, seeds=None), tmp_path)


def test_models_without_a_sampler_that_can_be_followed_are_unavailable(tmp_path):
    with pytest.raises(Unavailable, match="no sampling trajectories"):
        journey(task(Small), tmp_path)


@pytest.mark.parametrize("steps", [2, 4])
def test_by_default_every_step_that_the_models_own_sampler_takes_counts(tmp_path, steps):
    opened = task(Wandering, UNIFORM[::-1][:steps])
    spec = f"journey-trak:timesteps={T},v=none"
    found = scores_by_run(opened, tmp_path / "default", spec)[0]
    asked = scores_by_run(opened, tmp_path / "asked", f"{spec},sampling_steps={steps}")[0]
    np.testing.assert_array_equal(found, asked)


def test_more_steps_than_the_sampler_takes_are_refused(tmp_path):
    run = SmallRun(task(Certain), tmp_path, f"journey-trak:timesteps={T},sampling_steps={T + 1}")
    with pytest.raises(UsageError, match=f"takes {T}"):
        run.features(run.requests[0])
    assert not run.plan.stages


def test_trajectories_are_in_the_range_of_the_model():
    with pytest.raises(ValidationError, match="image_range"):
        JourneyOptions(image_range="unit")


def test_training_rows_are_those_of_trak():
    for options in ({}, {"at": 300}, {"v": 64, "timesteps": 3, "noise_seed": 4}):
        journey_options = {key: value for key, value in options.items() if key != "at"}
        request = JourneyTRAK(JourneyOptions(**options)).features()
        assert request.train == TRAK(RidgeOptions(**journey_options)).features().train
        (train,), (query,) = request.train, request.query
        assert isinstance(query, GradientRows)
        assert (query.source.latents, query.timesteps) == ("trajectory", "mean")
        same = {"grid": train.source.grid, "latents": "clean"}
        assert query.model_copy(update={"source": query.source.model_copy(update=same)}) == train


def test_grids_of_the_queries_are_the_samplers_or_a_single_timestep():
    assert JourneyTRAK(JourneyOptions(sampling_steps=7)).features().query[0].source.grid == TimestepGrid(
        kind="sampler", steps=7
    )
    assert JourneyTRAK(JourneyOptions(at=300, draws=5)).features().query[0].source.grid == TimestepGrid(
        kind="single", at=300, steps=5
    )


def test_the_kernel_is_that_of_trak():
    train, asked = InMemory(raw_rows(N, 0)), InMemory(raw_rows(M, 1))
    methods = (JourneyTRAK(JourneyOptions(damping=0.3)), TRAK(RidgeOptions(damping=0.3)))
    journey, trak = (method.fit(train.train(method), context()) for method in methods)
    found, expected = (
        scorer.scores(asked.query(method)) for scorer, method in zip((journey, trak), methods, strict=True)
    )
    np.testing.assert_array_equal(found, expected)
    assert journey.facts() == trak.facts()
