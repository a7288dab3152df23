"""The empty prompt in the gradient pass: gradients of the same items as if none had a prompt."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import Unavailable
from attrbench.gradients.samples import NoisySamples, Split
from tests.methods.in_memory import Small, SmallRun, SmallTask, scores_by_run, small_items

OWN = GradientSource(grid=TimestepGrid(kind="uniform", steps=2), noise="per-item")
EMPTY = OWN.model_copy(update={"prompt": "empty"})


def without_prompts(items):
    return replace(items, prompts=[""] * len(items.prompts), fingerprint=f"{items.fingerprint} without prompts")


def batch_of(source, denoiser, items):
    ((_, _, batch),) = NoisySamples(source, denoiser, Split("train", items)).batches(10**6)
    return batch


def equal(one, other):
    assert one.conditioning.keys() == other.conditioning.keys()
    same = [torch.equal(one.noisy, other.noisy), torch.equal(one.target, other.target)]
    return all(same + [torch.equal(value, other.conditioning[name]) for name, value in one.conditioning.items()])


@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_samples_are_those_of_the_same_items_without_prompts(kind, load, pictures):
    denoiser = load(kind)
    empty = batch_of(EMPTY, denoiser, pictures)
    assert equal(empty, batch_of(OWN, denoiser, without_prompts(pictures)))
    assert not equal(empty, batch_of(OWN, denoiser, pictures))


def test_drawn_samples_have_the_empty_prompt_too(load, pictures):
    def drawn(source, items):
        samples = NoisySamples(source, load("sd1"), Split("train", items))
        return samples.drawn(4, torch.Generator().manual_seed(0))

    assert equal(drawn(EMPTY, pictures), drawn(OWN, without_prompts(pictures)))
    assert not equal(drawn(EMPTY, pictures), drawn(OWN, pictures))


def test_scores_are_those_of_a_task_without_prompts(load, pictures, tmp_path):
    queries = replace(pictures, images=pictures.images[1:3], prompts=pictures.prompts[1:3], groups=["", ""])
    queries = replace(queries, fingerprint="queries")
    denoiser = load("sd1", True)
    task = SmallTask(denoiser, pictures, queries)
    emptied = SmallTask(denoiser, without_prompts(pictures), without_prompts(queries))
    specs = ("grad-dot:timesteps=2", "trak:timesteps=2,v=64", "trak:timesteps=2,v=none")
    found = scores_by_run(task, tmp_path / "a", *(f"{spec},prompt=empty" for spec in specs))
    own = scores_by_run(task, tmp_path / "b", *specs)
    for empty, with_own, expected in zip(found, own, scores_by_run(emptied, tmp_path / "c", *specs), strict=True):
        np.testing.assert_allclose(empty, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
        assert not np.allclose(empty, with_own, rtol=1e-2)


def test_trajectories_are_those_of_the_own_prompt(load, pictures):
    denoiser = load("sd1")
    items = replace(pictures, seeds=list(range(len(pictures.prompts))))
    grid = {"grid": TimestepGrid(kind="sampler", steps=2), "latents": "trajectory"}
    own, empty = (batch_of(source.model_copy(update=grid), denoiser, items) for source in (OWN, EMPTY))
    assert torch.equal(own.noisy, empty.noisy)
    assert not equal(own, empty)


def test_a_model_without_prompts_refuses_it_before_anything_is_computed(tmp_path):
    denoiser = Small(torch.nn.Conv2d(1, 1, 3, padding=1), (1, 4, 4))
    items = small_items(4, (1, 4, 4))
    with pytest.raises(Unavailable, match="prompt=empty: this model takes no prompts"):
        NoisySamples(EMPTY, denoiser, Split("train", items))
    run = SmallRun(SmallTask(denoiser, items, items), tmp_path, "grad-dot:timesteps=2,prompt=empty")
    (fault,) = run.plan.faults.values()
    assert isinstance(fault, Unavailable) and "takes no prompts" in str(fault)
