"""The losses of a model on the queries are those that a direct computation gives, on noises that no method shares."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attrbench.contracts.gradient_source import GradientSource
from attrbench.ground_truth import losses as losses_module
from attrbench.ground_truth.losses import QueryLosses
from attrbench.models.noise import feature_noise, gaussian
from tests.ground_truth.tiny_trainable import QUERIES, waves


@pytest.fixture(scope="module")
def queries():
    return waves(QUERIES, 1)


def directly(denoiser, queries, query, t, draws, seed):
    """The mean over noises of |e - noise|^2 / d, one sample at a time, in the scheduler's own words."""
    x = torch.from_numpy(queries.images[query].copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    found = []
    for draw in range(draws):
        noise = gaussian(denoiser.latent_shape, "ground truth", seed, queries.keys[query], t, draw)[None]
        noisy = denoiser.scheduler.add_noise(x, noise, torch.tensor([t]))
        with torch.no_grad():
            error = denoiser.module(noisy, torch.tensor([t])).sample - noise
        found.append(float((error**2).mean()))
    return np.mean(found)


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_losses_agree_with_a_direct_computation_whatever_the_batch(tiny_denoiser, queries, monkeypatch, batch):
    monkeypatch.setattr(losses_module, "BATCH", batch)
    monkeypatch.setattr(losses_module, "BLOCK", 2)
    measurement = QueryLosses(steps=4, draws=3, seed=5)
    found = measurement.losses(tiny_denoiser, queries)
    assert found.shape == (QUERIES, 4) and found.dtype == np.float32
    assert measurement.timesteps(tiny_denoiser) == (0, 250, 500, 750)
    for query in (0, 4):
        for step, t in enumerate(measurement.timesteps(tiny_denoiser)):
            assert found[query, step] == pytest.approx(directly(tiny_denoiser, queries, query, t, 3, 5), rel=1e-5)


def test_a_query_has_its_noises_wherever_it_stands(tiny_denoiser, queries):
    measurement = QueryLosses(steps=3, draws=2)
    whole = measurement.losses(tiny_denoiser, queries)
    turned = replace(queries, images=queries.images[::-1], fingerprint="turned")
    assert measurement.losses(tiny_denoiser, turned)[::-1] == pytest.approx(whole, rel=1e-5)


def test_no_method_shares_a_noise_with_the_measure(tiny_denoiser, queries):
    shape = tiny_denoiser.latent_shape
    ours = [QueryLosses()._noise(tiny_denoiser, queries.keys[0], t, 0) for t in (0.0, 250.0)]
    for policy in ("shared", "per-timestep", "per-item"):
        source = GradientSource(noise=policy)
        theirs = [feature_noise(source, key, t, shape) for key in queries.keys for t in (0, 250)]
        assert not any(torch.equal(one, other) for one in ours for other in theirs)


def test_other_seeds_draws_and_queries_are_told_apart(queries):
    class Opened:
        pass

    opened, other = Opened(), Opened()
    opened.queries, other.queries = queries, replace(queries, fingerprint="other")
    known = {str(m.identity(opened)) for m in (QueryLosses(), QueryLosses(seed=1), QueryLosses(draws=1))}
    known |= {str(QueryLosses(steps=3).identity(opened)), str(QueryLosses().identity(other))}
    assert len(known) == 5
