"""Pictures and prompts are encoded as the pipeline of diffusers does it, once, whatever is beside them."""

import logging

import numpy as np
import pytest
import torch

from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import AttrbenchError
from attrbench.models.encoders import CHUNK
from attrbench.models.loading import load_denoiser
from tests.models.diffusers_calls import CPU, embeddings_of, latents_of, pipeline_of, whole
from tests.models.pipelines import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_encoding_is_the_pipelines_own(kind, load, source_of, pictures):
    denoiser, pipeline = load(kind), pipeline_of(source_of(kind))
    encoded = denoiser.encode(pictures.images, pictures.prompts, "model")
    for item, (image, prompt) in enumerate(zip(pictures.images, pictures.prompts, strict=True)):
        torch.testing.assert_close(encoded.latents[item : item + 1], latents_of(pipeline, image))
        for found, expected in zip(
            encoded.conditioning.values(), embeddings_of(pipeline, prompt).values(), strict=True
        ):
            torch.testing.assert_close(found[item : item + 1], expected)


def test_pictures_may_be_fed_in_the_unit_range(load, pictures):
    denoiser = load("sd1")
    white = np.full((1, 16, 16, 3), 255, np.uint8)
    gray = np.full((1, 16, 16, 3), 0, np.uint8)
    unit, model = (denoiser.encode(white, [""], kind).latents for kind in ("unit", "model"))
    torch.testing.assert_close(unit, model)  # 1 in both
    assert not torch.allclose(denoiser.encode(gray, [""], "unit").latents, denoiser.encode(gray, [""], "model").latents)


def test_draws_from_the_posterior_are_decided_by_the_picture(load, source_of, pictures):
    mode, sample = load("sd1"), load("sd1", vae="sample")
    again = load_denoiser(source_of("sd1", vae="sample"), CPU)
    found = sample.encode(pictures.images, pictures.prompts, "model").latents
    assert torch.equal(found[0], found[-1])
    torch.testing.assert_close(again.encode(pictures.images[1:2], ["x"], "model").latents, found[1:2])
    assert not torch.allclose(found, mode.encode(pictures.images, pictures.prompts, "model").latents)
    assert sample.fingerprint != mode.fingerprint


@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_a_picture_is_encoded_to_the_same_bits_whatever_is_encoded_beside_it(kind, source_of, pictures):
    together = load_denoiser(source_of(kind), CPU).encode(pictures.images, pictures.prompts, "model")
    alone = load_denoiser(source_of(kind), CPU)
    for item in reversed(range(len(pictures))):
        one = alone.encode(pictures.images[item : item + 1], [pictures.prompts[item]], "model")
        assert torch.equal(one.latents[0], together.latents[item])
        for name, value in together.conditioning.items():
            torch.testing.assert_close(one.conditioning[name][0], value[item], rtol=1e-5, atol=1e-6)


def test_encoders_leave_the_device_when_they_have_done_their_work(source_of, pictures, monkeypatch):
    denoiser = load_denoiser(source_of("sd3", offload=True), CPU)
    places = moves_of([denoiser.encoders._vae, *denoiser.encoders._text_encoders], monkeypatch)
    denoiser.encode(pictures.images[:1], ["a cat"], "model")
    assert places == [[CPU, "cpu"]] * 4
    denoiser.encode(pictures.images[:1], ["a cat"], "model")
    assert places == [[CPU, "cpu"]] * 4  # nothing to do, nobody comes
    denoiser.generate(["the sea"], [0])
    assert all(moves[-1] == "cpu" for moves in places)


def moves_of(modules, monkeypatch):
    """Where each module is moved from now on, in the order of the modules."""
    places, original = [[] for _ in modules], torch.nn.Module.to

    def spy(module, *arguments, **options):
        for known, moves in zip(modules, places, strict=True):
            if module is known:
                moves.append(arguments[0])
        return original(module, *arguments, **options)

    monkeypatch.setattr(torch.nn.Module, "to", spy)
    return places


def test_encoders_come_to_the_device_once_for_all_items_of_a_call(source_of, pictures, monkeypatch):
    denoiser = load_denoiser(source_of("sd3", offload=True), CPU)
    places = moves_of([denoiser.encoders._vae, *denoiser.encoders._text_encoders], monkeypatch)
    images = np.stack([np.full_like(pictures.images[0], shade) for shade in range(20)])
    denoiser.encode(images, [f"number {shade}" for shade in range(20)], "model")
    assert places == [[CPU, "cpu"]] * 4  # not for each few of them


def test_everything_is_in_eval_mode(load):
    denoiser = load("sd3", lora=True)
    encoders = denoiser.encoders._text_encoders
    assert len(encoders) == 3
    assert not any(part.training for module in (denoiser.module, *encoders) for part in module.modules())


def test_pictures_and_prompts_are_encoded_once_in_all(source_of, pictures, monkeypatch):
    denoiser = load_denoiser(source_of("sd1", lora=True), CPU)
    calls = []
    encoders = type(denoiser.encoders)
    for name in ("_encode", "_embed"):
        original = getattr(encoders, name)
        monkeypatch.setattr(
            encoders,
            name,
            lambda self, items, *rest, original=original, name=name: (
                calls.append((name, len(items))) or original(self, items, *rest)
            ),
        )
    for checkpoint in ("final", "untrained"):
        for kind in ("uniform", "cubic"):
            source = GradientSource(grid=TimestepGrid(kind=kind, steps=1), checkpoint=checkpoint)
            whole(denoiser, pictures, source)
    assert calls == [("_encode", CHUNK), ("_embed", 4)]  # one of each is there twice; pictures are filled up


def test_long_prompts_are_cut_as_diffusers_cuts_them_and_that_is_said_once(source_of, pictures, caplog):
    denoiser = load_denoiser(source_of("sd3"), CPU)
    long, longer = "a card with a cat of the sea", "a card with a cat of the red flag"
    assert denoiser.truncated(["a cat", long, "", longer]) == [1, 3]
    with caplog.at_level(logging.WARNING):
        found = denoiser.encode(pictures.images[:2], [long, longer], "model")
        denoiser.encode(pictures.images[:1], [longer + " again"], "model")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "a card with a cat of the sea" in caplog.text
    assert "16, 24 tokens" in caplog.text
    expected = embeddings_of(pipeline_of(source_of("sd3")), long)["encoder_hidden_states"]
    torch.testing.assert_close(found.conditioning["text"][:1], expected)


def test_pictures_of_another_size_are_refused(load, pictures):
    with pytest.raises(AttrbenchError, match="16 x 16 pixels in 3 channels, these are 8 x 8"):
        load("sd1").encode(pictures.images[:, :8, :8], pictures.prompts, "model")
    with pytest.raises(AttrbenchError, match="in 1 channel"):
        load("sd1").encode(pictures.images[..., :1], pictures.prompts, "model")
