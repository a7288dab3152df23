"""The option `attributed` changes what is differentiated, and neither the queries nor the records of the default."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attrbench.conformance.checked_task import TaskSubject
from attrbench.conformance.model_checks import parameters
from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.task import Workspace
from attrbench.evaluation.record_builder import task_fingerprint
from attrbench.evaluation.requests import models_of, request_tasks
from attrbench.plugins.registry import registry
from attrbench.taskfile.read import read_task
from tests.cli.conftest import attrbench  # noqa: F401
from tests.models import pipelines
from tests.tasks.captioned import write_images

CPU = torch.device("cpu")
LEADERBOARDS = Path(__file__).parents[2] / "leaderboards"
MINIS = ("sd14-lora-mini", "sd3-lora-mini", "sd3-full-mini", "planted-lora-mini")
PART = "attributed=lora: 121,856 of the LoRA's 280,576 parameters are differentiated; attributed=whole-lora takes all"


def request_of(label):
    (request,) = request_tasks(registry(), [label])
    return request


def opened(label, cache):
    return request_of(label).task.open(Workspace(cache, CPU))


@pytest.fixture
def no_picture(monkeypatch):
    """Drawing a picture raises an error."""

    def refuse(*_, **__):
        raise AssertionError("drew a picture")

    for kind in _kinds(Denoiser):
        monkeypatch.setattr(kind, "generate", refuse)


def _kinds(base):
    yield base
    for kind in base.__subclasses__():
        yield from _kinds(kind)


@pytest.mark.parametrize("name", MINIS)
def test_published_records_are_of_the_task_by_default_and_of_no_other_choice(name, tmp_path):
    record = json.loads(next((LEADERBOARDS / name).glob("*.json")).read_bytes())
    prints = {
        choice: task_fingerprint(request_of(f"{name}:attributed={choice}").task, opened(name, tmp_path))
        for choice in ("auto", "whole-lora")
    }
    assert prints["auto"] == record["task"]["fingerprint"] != prints["whole-lora"]
    assert request_of(name).task.options.model_dump(mode="json") == record["task"]["options"]


@pytest.mark.parametrize("name", ["planted-lora-mini", "sd3-full-mini", "customized-mini:model=2"])
def test_the_queries_are_those_that_ship_whatever_is_differentiated(name, tmp_path, no_picture):
    label = f"{name}{',' if ':' in name else ':'}attributed=all"
    default, other = opened(name, tmp_path), opened(label, tmp_path)
    assert other.query_outline.is_drawn
    assert other.queries.fingerprint == default.queries.fingerprint
    assert other.model_description.fingerprint != default.model_description.fingerprint


def test_each_model_of_a_task_of_several_has_the_choice():
    request = request_of("customized-mini:attributed=whole-lora")
    assert {each.task.options.attributed for each in models_of(registry(), request)} == {"whole-lora"}


@pytest.fixture
def own(tmp_path):
    """A task file with a tiny pipeline and two prompts to draw."""
    pipelines.write("sd1", tmp_path / "sd1")
    write_images(tmp_path / "images", ["a", "b"])
    lines = ['[task]\nname = "own"', '[model]\nmodel = "sd1"\nsampling_steps = 2', '[train]\npath = "images"']
    path = tmp_path / "own.toml"
    path.write_text("\n".join([*lines, '[queries]\nprompts = ["a flag", "a card"]\n']))
    return path


def test_pictures_that_a_task_file_draws_are_drawn_once_for_all_choices(own, tmp_path, request):
    def queries(**given):
        return read_task(own, {f"model.{key}": value for key, value in given.items()}).open(
            Workspace(tmp_path / "cache", CPU)
        )

    drawn = queries().queries.images
    request.getfixturevalue("no_picture")
    np.testing.assert_array_equal(queries(attributed="all").queries.images, drawn)
    with pytest.raises(AssertionError, match="drew a picture"):
        _ = queries(sampling_steps="3").queries


def test_a_plan_says_which_part_of_the_lora_is_differentiated(attrbench, tmp_path):  # noqa: F811
    def told(label):
        run = ("run", "-m", "dmin", "-t", label, "--dry-run", "--cache", tmp_path, "--out", tmp_path / "out")
        done = attrbench(*run)
        assert done.code == 0, done.err
        return done.err

    assert PART in told("planted-lora-mini").splitlines()
    assert "differentiated" not in told("planted-lora-mini:attributed=whole-lora")


def test_an_attribution_says_it_too(attrbench, tmp_path):  # noqa: F811
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    ask = ("attribute", "-m", "pixel", "-t", "planted-lora-mini", "--image", tmp_path / "red.png", "--prompt", "a flag")
    done = attrbench(*ask, "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert PART in done.err.splitlines()


def test_a_check_of_the_task_says_it_too(tmp_path):
    finding = parameters(TaskSubject(registry(), request_of("planted-lora-mini"), Workspace(tmp_path, CPU)))
    assert finding.status == "passed", finding
    assert "with 121,856 numbers" in finding.found and finding.found.endswith(PART)
