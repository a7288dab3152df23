"""Task files of models that take prompts: Stable Diffusion 1.x and 3, tiny, from folders, without a hub."""

import json

import pytest
import torch

from attrbench.contracts.record import read_records
from tests.data.making import captioned, metadata_csv, picture
from tests.models.pipelines import write
from tests.taskfile.making import write_task

DMIN = "dmin:v=64,timesteps=1"
COUNT = 6


@pytest.fixture(scope="module", params=["sd1", "sd3"])
def pipeline(request, tmp_path_factory):
    return write(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def own(tmp_path, pipeline, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    captioned(tmp_path / "images", COUNT)

    def described(**tables):
        defaults = {
            "model": {"model": str(pipeline), "sampling_steps": 2},
            "train": {"path": "images", "group_column": "family"},
            "queries": {"prompts": ["a red card", "a flag"], "groups": ["a", "b"], "seeds": "0-1"},
        }
        return write_task(tmp_path / "own.toml", **{**defaults, **tables})

    return described


@pytest.fixture
def ask(attrbench, tmp_path, own):
    def run(*arguments):
        return attrbench("attribute", "-m", DMIN, "-t", own(), "--out", tmp_path / "out", "--json", *arguments)

    return run


def test_a_run_draws_every_prompt_with_every_seed(own, tmp_path, attrbench):
    done = attrbench("run", "-m", DMIN, "-m", "pixel", "-t", own(), "--out", tmp_path / "out")
    assert done.code == 0, done.err
    for record in read_records(tmp_path / "out")[0]:
        assert record.status == "complete"
        assert record.query_groups == ["a", "a", "b", "b"]
        assert record.metric("detection-rate@5") is not None


def test_a_picture_with_its_prompt_finds_itself(ask, tmp_path):
    done = ask("--image", tmp_path / "images" / "03.png", "--prompt", "caption 3")
    (answer,) = json.loads(done.out)["queries"]
    assert answer["prompt"] == "caption 3"
    assert answer["ranking"][0]["name"] == "03.png"
    again = ask("--image", tmp_path / "images" / "04.png", "--prompt", "caption 4")
    assert "train gradients" not in again.err


def test_the_prompt_is_part_of_the_question(ask, tmp_path):
    scores = [
        json.loads(ask("--image", tmp_path / "images" / "03.png", "--prompt", prompt).out)["queries"][0]["ranking"]
        for prompt in ("caption 3", "")
    ]
    assert scores[0] != scores[1]


def test_a_prompt_alone_is_drawn_first(ask):
    done = ask("--prompt", "a red card", "--prompt", "a flag", "--seed", 3)
    answers = json.loads(done.out)["queries"]
    assert [answer["name"] for answer in answers] == ["seed 3 of 'a red card'", "seed 3 of 'a flag'"]


def test_an_image_without_a_prompt_is_asked_back(ask, tmp_path):
    done = ask("--image", tmp_path / "images" / "03.png")
    assert done.code == 2
    assert "the model takes prompts: give the picture's --prompt" in done.complaint[0]


def test_images_without_captions_are_refused_before_anything_is_computed(own, tmp_path, attrbench):
    metadata_csv(tmp_path / "images", {"file_name": "00.png", "family": "a"}, {"file_name": "01.png", "family": "b"})
    done = attrbench("run", "-m", DMIN, "-t", own(), "--out", tmp_path / "out")
    assert done.code == 1
    assert len(done.complaint) == 1
    assert str(tmp_path / "images") in done.complaint[0]
    assert "has no captions, and the model takes prompts" in done.complaint[0]


def test_query_pictures_need_captions_too(own, tmp_path, attrbench):
    picture(tmp_path / "asked" / "a.png")
    done = attrbench("run", "-m", DMIN, "-t", own(queries={"images": "asked"}), "--out", tmp_path / "out")
    assert done.code == 1
    assert f"{tmp_path / 'asked'} has no captions" in done.complaint[0]


def test_captions_that_are_too_long_are_cut_and_counted(own, tmp_path, attrbench):
    rows = [
        {
            "file_name": f"{i:02d}.png",
            "text": "of the sea with a cat " * (30 if i in (2, 5) else 1),
            "family": "ab"[i % 2],
        }
        for i in range(COUNT)
    ]
    metadata_csv(tmp_path / "images", *rows)
    done = attrbench("run", "-m", "pixel", "-t", own(), "--out", tmp_path / "out")
    assert done.code == 0
    (record,) = read_records(tmp_path / "out")[0]
    (note,) = [note for note in record.notes if "longer than the text encoder takes" in note]
    assert f"of {COUNT} prompts of {tmp_path / 'images'}" in note
    assert "02.png" in note or "00.png" in note


def test_seeds_without_prompts_are_not_enough(own, tmp_path, attrbench):
    done = attrbench("run", "-m", DMIN, "-t", own(queries={"seeds": "0-1"}), "--out", tmp_path / "out")
    assert done.code == 1
    assert "[queries] lacks prompts" in done.complaint[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_cuda_ranks_as_on_the_cpu(own, tmp_path, attrbench):
    rankings = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        done = attrbench("run", "-m", DMIN, "-m", "d-trak", "-t", own(), "--out", out, "--device", device)
        assert done.code == 0, done.err
        rankings[device] = {record.method.name: record.ranking for record in read_records(out)[0]}
    assert rankings["cuda"] == rankings["cpu"]
