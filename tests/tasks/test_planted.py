"""The task with planted items is what its description says, and its model reproduces what was planted."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import attrbench
from attrbench.contracts.task import Workspace
from attrbench_tasks.datasets.planted import APART, KINDS, OF_KIND, REPEATS, planted_set
from attrbench_tasks.datasets.registry_mix import part
from attrbench_tasks.minis.planted import PER_CAPTION, REPORTED, PlantedLoRAMini, nearest_group
from attrbench_tasks.minis.text_to_image import JUDGED
from attrbench_tasks.training.loop import RECIPE_FILE


def opened(cache, **options):
    return PlantedLoRAMini(PlantedLoRAMini.Options(**options)).open(Workspace(cache, torch.device("cpu")))


def test_planted_sets_have_the_stated_numbers_and_captions_of_their_own():
    planted = planted_set()
    assert len(planted.items) == len(planted.groups) == len(planted.repeats) == PlantedLoRAMini.meta.train_items
    assert [one.kind for one in planted.planted] == [kind for kind in KINDS for _ in range(OF_KIND)]
    captions = [one.caption for one in planted.planted]
    assert len(set(captions)) == len(captions)
    for one in planted.planted:
        members = [i for i, group in enumerate(planted.groups) if group == one.name]
        assert len(members) == len(one.images) == (3 if one.kind == "near-duplicates" else 1)
        assert {planted.items.captions[i] for i in members} == {one.caption}
        assert planted.items.captions.count(one.caption) == len(members)
        assert planted.repeats[members].sum() == REPEATS


def test_planted_sets_look_different_and_near_duplicates_alike():
    originals = [one.images[0].astype(float) for one in planted_set().planted]
    for i, one in enumerate(originals):
        assert all(np.sqrt(np.square(one - other).mean()) > APART / 3 for other in originals[:i])
    for one in planted_set().planted:
        first = one.images[0].astype(float)
        assert all(0 < np.sqrt(np.square(first - copy).mean()) < APART for copy in one.images[1:])


def test_mislabelled_items_have_the_caption_of_a_base_icon_of_another_family():
    base, held_out = part("base"), part("held_out")
    for one in planted_set().planted:
        if one.kind == "mislabelled":
            caption = base.captions.index(one.caption)
            (icon,) = np.flatnonzero((held_out.images == one.images[0]).all(axis=(1, 2, 3)))
            assert base.families[caption] != held_out.families[icon]


def test_training_draws_the_items_of_a_subset_as_often_as_stated():
    repeats = planted_set().repeats
    subset = np.flatnonzero(repeats > 1)[::2]
    drawn = PlantedLoRAMini(PlantedLoRAMini.Options()).drawn(subset)
    assert sorted(set(drawn.tolist())) == subset.tolist()
    assert [int((drawn == item).sum()) for item in subset] == repeats[subset].tolist()


def test_shipped_queries_have_known_origins_and_tuning_has_others(tmp_path):
    reported, tuning = opened(tmp_path).queries, opened(tmp_path, query_set="tuning").queries
    assert len(reported) == len(KINDS) * REPORTED * PER_CAPTION
    assert len(tuning) == len(KINDS) * (OF_KIND - REPORTED) * PER_CAPTION
    assert not set(reported.groups) & set(tuning.groups)
    assert set(reported.groups) | set(tuning.groups) == {one.name for one in planted_set().planted}
    captions = {one.name: one.caption for one in planted_set().planted}
    assert [captions[group] for group in reported.groups] == list(reported.prompts)


def test_the_counts_beside_the_weights_are_those_of_the_shipped_pictures(tmp_path):
    stated = json.loads((opened(tmp_path)._task.weights / JUDGED).read_text())
    counted = dict.fromkeys(KINDS, 0)
    for query_set in ("reported", "tuning"):
        queries = opened(tmp_path, query_set=query_set).queries
        for image, group in zip(queries.images, queries.groups, strict=True):
            counted[group.rpartition(" ")[0]] += (
                nearest_group(image, planted_set().items, planted_set().groups) == group
            )
    assert {kind: one["reproduced"] for kind, one in stated.items()} == counted


def test_the_recipe_beside_the_weights_is_the_one_that_train_repeats():
    recipe = PlantedLoRAMini.recipe()
    file = PlantedLoRAMini(PlantedLoRAMini.Options()).weights / RECIPE_FILE
    assert type(recipe).model_validate_json(file.read_bytes()) == recipe


@pytest.mark.slow
def test_shipped_pictures_are_those_that_the_model_draws(tmp_path):
    task = opened(tmp_path)
    few = slice(0, 2)
    drawn = task.denoiser.generate(task.queries.prompts[few], task.queries.seeds[few])
    assert np.abs(drawn.astype(int) - task.queries.images[few]).mean() < 2  # rounding differs by machine


@pytest.mark.slow
def test_evidence_of_a_picture_made_of_two_halves_lies_in_the_half_of_each_item(tmp_path):
    train = opened(tmp_path).train
    left, right = (list(train.groups).index(f"mislabelled {number}") for number in (0, 3))
    pixels = train.images[left].copy()
    pixels[:, 16:] = train.images[right][:, 16:]
    image = Image.fromarray(pixels)
    found = attrbench.evidence_map("grad-dot", "planted-lora-mini", [left, right], image=image, cache=tmp_path)
    shares = found.maps[:, :, :8].sum((1, 2)) / found.scores
    assert shares[0] > 0.7 and shares[1] < 0.3
