"""The task with customized models is what its description says: exemplars under words of their own, known origins."""

import json
import re

import numpy as np
import pytest
import torch

from attrbench.contracts.denoiser import CHECKPOINTS
from attrbench.contracts.task import Workspace
from attrbench.errors import UsageError
from attrbench.evaluation.requests import models_of, request_tasks
from attrbench.plugins.registry import registry
from attrbench_tasks import ship_other_seed
from attrbench_tasks.datasets.customized import BACKGROUND, EXEMPLARS, KINDS, OF_KIND, REPEATS, concepts, customized_set
from attrbench_tasks.datasets.registry_mix import PARTS, part
from attrbench_tasks.minis import text_to_image
from attrbench_tasks.minis.customized import MODELS, PER_MODEL, PROMPTS, CustomizedMini
from attrbench_tasks.minis.text_to_image import JUDGED
from attrbench_tasks.shipped_weights import WEIGHTS
from attrbench_tasks.training.loop import RECIPE_FILE
from attrbench_tasks.training.train_text_to_image import LORA_FILE

CPU = torch.device("cpu")
EVERY = range(MODELS)


def task(**options):
    return CustomizedMini(CustomizedMini.Options(**options))


def words_of(text):
    return re.findall(r"\w+", text)


def opened(cache, **options):
    return task(**options).open(Workspace(cache, CPU))


def test_there_are_four_exemplars_of_each_concept_and_its_word_is_in_no_other_caption():
    assert [concept.kind for concept in concepts()] == [kind for kind in KINDS for _ in range(OF_KIND)]
    known = words_of(" ".join(part(*PARTS).captions))
    words = [concept.word for concept in concepts()]
    assert len(set(words)) == MODELS and not set(words) & set(known)
    for concept in concepts():
        assert len(concept.images) == len(concept.plain) == len(set(concept.captions)) == EXEMPLARS
        assert all(concept.word in words_of(caption)[:2] for caption in concept.captions)
        assert len({image.tobytes() for image in concept.images}) == EXEMPLARS


def test_all_models_have_the_same_pictures_and_their_own_word_in_the_captions_of_their_exemplars_alone():
    plain = customized_set(None)
    assert len(plain.items) == BACKGROUND + MODELS * EXEMPLARS == CustomizedMini.meta.train_items
    for model, concept in enumerate(concepts()):
        own = customized_set(model)
        np.testing.assert_array_equal(own.items.images, plain.items.images)
        assert own.groups == plain.groups
        worded = [i for i, caption in enumerate(own.items.captions) if concept.word in words_of(caption)]
        assert worded == [i for i, group in enumerate(own.groups) if group == concept.name]
        assert [a for i, a in enumerate(own.items.captions) if i not in worded] == [
            a for i, a in enumerate(plain.items.captions) if i not in worded
        ]
        assert (own.repeats[worded] == REPEATS).all() and np.delete(own.repeats, worded).max() == 1
    assert plain.repeats.max() == 1


def test_an_epoch_draws_the_models_own_exemplars_as_often_as_stated():
    subset = np.arange(BACKGROUND - 2, BACKGROUND + EXEMPLARS)
    drawn = task(model=0).drawn(subset)
    assert [int((drawn == item).sum()) for item in subset] == [1, 1] + [REPEATS] * EXEMPLARS


def test_every_prompt_begins_with_the_word_and_repeats_no_caption_and_no_prompt_of_the_other_set(tmp_path):
    for model, concept in enumerate(concepts()):
        sets = [opened(tmp_path, model=model, query_set=name).queries for name in ("reported", "tuning")]
        prompts = [prompt for queries in sets for prompt in queries.prompts]
        assert len(set(prompts)) == 2 * PER_MODEL == len(PROMPTS[concept.kind])
        assert all(concept.word in words_of(prompt)[:2] for prompt in prompts)
        known = [caption.replace(f"{concept.word} style, ", "") for caption in customized_set(model).items.captions]
        assert not {prompt.replace(f"{concept.word} style, ", "") for prompt in prompts} & set(known)
        assert {group for queries in sets for group in queries.groups} == {concept.name}


def test_the_task_without_a_model_holds_the_queries_of_all_and_the_origins_of_each(tmp_path):
    every = opened(tmp_path)
    assert len(every.queries) == MODELS * PER_MODEL and every.query_outline.count == len(every.queries)
    assert list(every.queries.groups) == [concept.name for concept in concepts() for _ in range(PER_MODEL)]
    for model in (1, 6):
        own = opened(tmp_path, model=model).queries
        np.testing.assert_array_equal(every.queries.images[model * PER_MODEL : (model + 1) * PER_MODEL], own.images)
    for group in set(every.queries.groups):
        assert list(every.train.groups).count(group) == EXEMPLARS


def test_what_one_model_alone_can_do_is_refused_without_a_model(tmp_path):
    whole = task()
    for ask in (
        lambda: whole.train(np.arange(5), None, tmp_path, CPU, print),
        lambda: whole.train(None, 3, tmp_path, CPU, print),
        lambda: whole.with_weights(tmp_path),
        lambda: whole.concept,
    ):
        with pytest.raises(UsageError, match=r"customized-mini is 8 models: .* customized-mini:model=0"):
            ask()


def test_the_recipe_beside_each_models_weights_is_the_one_that_train_repeats():
    recipe = CustomizedMini.recipe()
    for model in EVERY:
        file = task(model=model).weights / RECIPE_FILE
        assert type(recipe).model_validate_json(file.read_bytes()) == recipe


def test_the_counts_beside_the_weights_are_those_of_the_shipped_pictures_and_well_above_the_bases(tmp_path):
    of_model, of_base = 0, 0
    for model, concept in enumerate(concepts()):
        sets = [opened(tmp_path, model=model, query_set=name).queries.images for name in ("reported", "tuning")]
        stated = json.loads((task(model=model).weights / JUDGED).read_text())
        assert stated["concept"] == concept.name and stated["of"] == 2 * PER_MODEL
        counts = stated["closest to an exemplar"]
        assert counts["the model"] == sum(map(task(model=model).closest, sets))
        of_model, of_base = of_model + counts["the model"], of_base + counts["the base"]
    assert of_model > 0.8 * MODELS * 2 * PER_MODEL and of_base < 0.1 * MODELS * 2 * PER_MODEL


@pytest.fixture
def few_steps(monkeypatch):
    """One step on the shipped base, and no pictures drawn."""
    recipe = CustomizedMini.recipe().model_copy(update={"steps": 1})
    monkeypatch.setattr(CustomizedMini, "recipe", classmethod(lambda cls: recipe))
    monkeypatch.setattr(CustomizedMini, "shared_parts", staticmethod(lambda weights: WEIGHTS / "text-to-image-mini"))
    monkeypatch.setattr(CustomizedMini, "judge", lambda self, weights, device: "judged")
    monkeypatch.setattr(text_to_image, "prepare", lambda *args: None)
    encode, kept = text_to_image.encoded, {}

    def once(family, folder, items, device):
        key = items.captions
        kept[key] = kept.get(key) or encode(family, folder, items, device)
        return kept[key]

    monkeypatch.setattr(text_to_image, "encoded", once)


def test_training_without_a_model_trains_each_into_a_folder_of_its_own(few_steps, tmp_path):
    assert task().train(None, None, tmp_path / "all", CPU, lambda line: None) == tmp_path / "all"
    files = [tmp_path / "all" / str(model) / LORA_FILE for model in EVERY]
    assert len({file.read_bytes() for file in files}) == MODELS
    alone = task(model=3).train(None, None, tmp_path / "three", CPU, lambda line: None)
    assert (alone / LORA_FILE).read_bytes() == files[3].read_bytes()
    task(model=3).trained(alone, Workspace(tmp_path / "cache", CPU))


def test_the_weights_of_another_seed_are_trained_once_and_kept_beside_the_models_own(few_steps, tmp_path, monkeypatch):
    monkeypatch.setattr(CustomizedMini, "weights", property(lambda self: tmp_path / str(self.options.model)))
    request = models_of(registry(), request_tasks(registry(), ["customized-mini"])[0])[2]
    with pytest.raises(UsageError, match="customized-mini:model=2 has no LoRA"):
        ship_other_seed.ship(request)
    request.task.train(None, None, tmp_path / "2", CPU, lambda line: None)
    file = ship_other_seed.ship(request)
    assert file == tmp_path / "2" / CHECKPOINTS / "other-seed.safetensors"
    assert file.read_bytes() != (tmp_path / "2" / LORA_FILE).read_bytes()
    monkeypatch.setattr(CustomizedMini, "train", None)
    assert ship_other_seed.ship(request) == file


def test_each_model_is_a_request_of_its_own():
    (whole,) = request_tasks(registry(), ["customized-mini:query_set=tuning"])
    assert [each.label for each in models_of(registry(), whole)] == [
        f"customized-mini:query_set=tuning,model={model}" for model in EVERY
    ]
    assert not models_of(registry(), request_tasks(registry(), ["customized-mini:model=4"])[0])
