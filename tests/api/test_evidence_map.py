"""Evidence maps: they sum to the scores of runs, in every family of models, and refuse what does not come apart."""

import numpy as np
import pytest
import torch

import attrbench
from attrbench.conformance.toy_task import SIDE
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.contracts.task import Items
from attrbench.errors import UsageError
from attrbench.gradients.evidence import evidence
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.plugins.registry import registry
from attrbench.reports.heat_map import over
from tests.models import pipelines

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "method",
    ["grad-dot", "grad-dot:output=squared-norm,noise=per-item", "grad-dot:output=weighted-loss,normalize=true",
     "grad-dot:output=mean,grid=uniform,timesteps=3", "dmin:v=none", "dmin:v=none,normalize=false"],
)  # fmt: skip
def test_maps_sum_to_the_scores_of_a_run(method, toy):
    results = attrbench.run(method, toy, progress=False)
    for query in (0, 2):
        found = attrbench.evidence_map(method, toy, [0, 5, 7], query=query)
        scores = results.scores(method)
        expected = scores[query, [0, 5, 7]]
        np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-4 * np.abs(scores).max())
        assert found.values.shape == (3, len(found.timesteps), SIDE, SIDE)


def test_every_method_that_is_taken_gives_maps_that_sum_to_its_scores(toy):
    taken = []
    for name in registry().names("method"):
        try:
            found = attrbench.evidence_map(name, toy, 1, query=0)
        except UsageError:
            continue
        taken.append(name)
        score = attrbench.run(name, toy, progress=False).scores(name)[0, 1]
        assert found.scores[0] == pytest.approx(score, rel=1e-3), name
    assert "grad-dot" in taken


@pytest.mark.parametrize("family", ["sd1", "sd3"])
@pytest.mark.parametrize("normalize", [False, True])
def test_maps_pass_attention_and_loras(family, normalize, tmp_path):
    from attrbench.models.config import ModelConfig
    from attrbench.models.loading import load_denoiser

    pipelines.write_with_loras(tmp_path)
    model = ModelConfig(model=str(tmp_path / family), lora=str(tmp_path / f"{family}-lora"), sampling_steps=2)
    denoiser = load_denoiser(model, CPU)
    height, width, channels = denoiser.image_shape
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, channels), np.uint8)
    items = Items(images, ["", ""], ["a cat", "a dog"], "two")
    samples = NoisySamples(GradientSource(grid=TimestepGrid(steps=2)), denoiser, Split("train", items))
    found = evidence(samples, samples, 0, 1, normalize)
    assert found.shape == (2, *denoiser.latent_shape[1:])
    rows = samples_rows(samples)
    if normalize:
        rows /= rows.norm(dim=2, keepdim=True)
    np.testing.assert_allclose(found.sum((1, 2)), (rows[0] * rows[1]).sum(1), rtol=1e-4, atol=1e-9)


def samples_rows(samples):
    """Return whole gradients by plain autograd, [items, timesteps, p]."""
    gradients, rows = samples.gradients(backend="loop"), {}
    for item, step, batch in samples.batches(1):
        parts = []
        gradients(batch, lambda offset, row, parts=parts: parts.append(row[0].double()))
        rows[int(item), int(step)] = torch.cat(parts)
    steps = len(samples.timesteps)
    return torch.stack([torch.stack([rows[item, step] for step in range(steps)]) for item in range(samples.count)])


def test_a_network_that_looks_at_single_pixels_has_evidence_only_where_the_pictures_agree():
    """One weight for each pixel: a position's evidence is the product of both pictures' gradients there."""
    from tests.gradients.test_per_sample import ToyDenoiser

    class OwnWeights(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1, 4, 6, 6))

        def forward(self, x):
            return self.weight * x

    denoiser = ToyDenoiser(OwnWeights())
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 4))
    items = Items(images, ["", ""], ["", ""], "two")
    samples = NoisySamples(GradientSource(grid=TimestepGrid(steps=1)), denoiser, Split("train", items))
    (found,) = evidence(samples, samples, 0, 1, False)
    rows = samples_rows(samples)[:, 0].view(2, 4, 6, 6)
    np.testing.assert_allclose(found, rows.prod(0).sum(0), rtol=1e-6)


@pytest.mark.parametrize("method", ["pixel", "trak", "dmin", "grad-dot:output=linf"])
def test_scores_that_do_not_come_apart_by_position_are_refused(method, toy):
    with pytest.raises(UsageError, match=r"grad-dot or dmin:v=none|mean over positions"):
        attrbench.evidence_map(method, toy, 0, query=0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"items": 10**6, "query": 0}, "items: name some of 0 to"),
        ({"items": [], "query": 0}, "items: name some of 0 to"),
        ({"items": 0, "query": -1}, "query -1: the task has the queries 0 to"),
        ({"items": 0}, "either the index of a query or an image"),
        ({"items": 0, "image": "a.png", "prompt": "cat"}, "takes no prompts"),
    ],
)
def test_a_wrong_question_is_answered_in_one_line(asked, message, toy):
    with pytest.raises(UsageError, match=message):
        attrbench.evidence_map("grad-dot", toy, **asked)


def test_an_image_gives_the_map_of_the_query_with_its_pixels(toy):
    from PIL import Image

    opened = attrbench.open_task(toy)
    pixels = opened.queries.images[2]
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    of_image = attrbench.evidence_map("grad-dot", toy, 3, image=image)
    np.testing.assert_array_equal(of_image.values, attrbench.evidence_map("grad-dot", toy, 3, query=2).values)
    assert np.abs(of_image.values).max() > 0
    assert of_image.picture().size[0] > 100 and of_image._repr_png_()[:4] == b"\x89PNG"


def test_heat_maps_are_red_above_zero_blue_below_and_gray_at_zero():
    picture = over(np.full((4, 6, 3), 100, np.uint8), np.array([[2.0, 0.0, -1.0]]))
    left, middle, right = picture[0, 0].astype(int), picture[0, 2].astype(int), picture[0, 5].astype(int)
    assert left[0] > left[2] and right[2] > right[0] and len(set(middle)) == 1
    assert over(np.zeros((2, 2, 1), np.uint8), np.zeros((1, 1))).shape == (2, 2, 3)
