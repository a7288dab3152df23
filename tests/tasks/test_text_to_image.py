"""The shipped text-to-image minis are what their descriptions say."""

import json

import numpy as np
import pytest
import torch

from attrbench.contracts.task import Workspace
from attrbench_tasks.datasets.registry_mix import FAMILIES, PARTS, part, subject
from attrbench_tasks.minis.recipes import AUTOENCODER, BASES, CLASSIFIER, TEXT_ENCODERS, pixels
from attrbench_tasks.minis.text_to_image import JUDGED, SHARED, SD3FullMini, SD3LoRAMini, SD14LoRAMini
from attrbench_tasks.shipped_weights import WEIGHTS
from attrbench_tasks.training.classifier import REPORT, load_classifier, probabilities
from attrbench_tasks.training.loop import RECIPE_FILE

TASKS = [SD14LoRAMini, SD3LoRAMini, SD3FullMini]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def opened(kind, cache, **options):
    return kind(kind.Options(**options)).open(Workspace(cache, CPU))


def test_parts_share_no_image_no_caption_and_no_subject():
    parts = [part(name) for name in PARTS]
    assert sum(map(len, parts)) == 1833
    for i, one in enumerate(parts):
        for other in parts[i + 1 :]:
            assert not {x.tobytes() for x in one.images} & {x.tobytes() for x in other.images}
            assert not {subject(c) for c in one.captions} & {subject(c) for c in other.captions}


def test_every_family_is_in_every_part_in_the_stated_shares():
    counts = np.array([np.bincount(part(name).families, minlength=len(FAMILIES)) for name in PARTS])
    np.testing.assert_allclose(counts / counts.sum(0), np.array([[0.45], [0.45], [0.1]]) * np.ones(6), atol=0.02)


@pytest.mark.parametrize("kind", TASKS)
def test_the_training_set_is_the_tuning_part_with_its_captions(kind, cache):
    train = opened(kind, cache).train
    assert len(train) == kind.meta.train_items == len(part("tuning"))
    assert list(train.prompts) == list(part("tuning").captions)
    assert set(train.groups) == set(FAMILIES)


@pytest.mark.parametrize("kind", TASKS)
def test_queries_have_held_out_prompts_and_are_the_same_every_time(kind, cache, tmp_path):
    queries = opened(kind, cache, queries_per_group=1).queries
    held_out = dict(zip(part("held_out").captions, part("held_out").families, strict=True))
    assert [FAMILIES[held_out[prompt]] for prompt in queries.prompts] == list(queries.groups) == list(FAMILIES)
    assert len(set(queries.seeds)) == len(queries)
    assert opened(kind, tmp_path, queries_per_group=1).queries.fingerprint == queries.fingerprint
    tuning = opened(kind, cache, queries_per_group=1, query_set="tuning").queries
    assert not set(tuning.seeds) & set(queries.seeds)
    assert not set(tuning.prompts) & set(queries.prompts)
    assert (tuning.images != queries.images).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("kind", TASKS)
def test_weights_are_loaded_in_single_precision_and_attributed_as_the_task_says(kind, cache):
    denoiser = opened(kind, cache).denoiser
    assert {p.dtype for p in denoiser.module.parameters()} == {torch.float32}
    names = list(denoiser.attributed_parameters("attributed"))
    assert all(("lora" in name) == kind.lora for name in names)
    assert denoiser.latent_shape == (4, 16, 16)


@pytest.mark.parametrize("kind", TASKS)
def test_checkpoints_of_the_fine_tuning_can_be_followed(kind, cache):
    denoiser = opened(kind, cache).denoiser
    assert denoiser.checkpoints() == tuple(f"step-{step}" for step in kind.recipe().checkpoints)
    for name in denoiser.checkpoints():
        assert denoiser.learning_rate(name) > 0
        earlier = denoiser.at(name).attributed_parameters("attributed")
        final = denoiser.attributed_parameters("attributed")
        assert any(not torch.equal(earlier[key], final[key]) for key in final)


@pytest.mark.parametrize("kind", TASKS)
def test_recipes_beside_the_weights_are_those_that_train_repeats(kind):
    shared = WEIGHTS / SHARED
    stated = {
        WEIGHTS / kind.meta.name: kind.recipe(),
        shared / kind.family: BASES[kind.family],
        shared / "vae": AUTOENCODER,
        shared: TEXT_ENCODERS,
    }
    for folder, recipe in stated.items():
        assert type(recipe).model_validate_json((folder / RECIPE_FILE).read_bytes()) == recipe
    report = json.loads((shared / REPORT).read_text())
    assert type(CLASSIFIER).model_validate(report["recipe"]) == CLASSIFIER


def test_the_classifier_is_as_good_as_its_report_says():
    held_out = part("held_out")
    right = probabilities(load_classifier(WEIGHTS / SHARED), held_out.images).argmax(1) == held_out.families
    assert right.mean() == pytest.approx(json.loads((WEIGHTS / SHARED / REPORT).read_text())["accuracy"], abs=0.006)


@pytest.mark.parametrize("kind", TASKS)
def test_the_counts_beside_the_weights_are_those_of_the_notes_and_add_up(kind):
    report = json.loads((WEIGHTS / kind.meta.name / JUDGED).read_text())
    assert f"{report['share']:.0%}" in kind.meta.notes
    assert sum(family["right"] for family in report["families"].values()) == report["right"]
    assert report["of"] == len(part("held_out"))


def test_the_autoencoder_keeps_unseen_pictures_and_gives_standard_latents():
    from diffusers import AutoencoderKL

    from attrbench_tasks.training.train_autoencoder import latents_of, psnr

    vae = AutoencoderKL.from_pretrained(WEIGHTS / SHARED / "vae").eval()
    assert psnr(vae, pixels(part("held_out").images[::4])) > 24
    latents = latents_of(vae, pixels(part("base").images[::8]))
    assert latents.mean().abs() < 0.2 and abs(latents.std() - 1) < 0.2
