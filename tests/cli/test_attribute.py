"""`attrbench attribute`: the training images behind a picture, as text and as a contact sheet."""

import json

import numpy as np
import pytest
from PIL import Image

from attrbench.reports.contact_sheet import COLUMNS, GAP, LINE, LINES, TILE, picture_of
from tests.data.making import captioned, metadata_csv, picture
from tests.taskfile.making import write_task

DMIN = "dmin:v=64,timesteps=2"
COUNT = 10


@pytest.fixture
def own(tmp_path, tiny_folder):
    captioned(tmp_path / "images", COUNT)
    model = {"model": str(tiny_folder), "sampling_steps": 2}
    return write_task(tmp_path / "own.toml", model=model, train={"path": "images", "group_column": "family"})


@pytest.fixture
def ask(attrbench, tmp_path, own):
    def run(*arguments, method="pixel", task=own):
        return attrbench(
            "attribute", "-m", method, "-t", task, "--out", tmp_path / "out", "--device", "cpu", *arguments
        )

    return run


def ranking_of(done):
    assert done.code == 0, done.err
    return json.loads(done.out)["queries"][0]["ranking"]


def test_a_training_image_is_its_own_nearest(ask, tmp_path):
    done = ask("--image", tmp_path / "images" / "03.png", "-k", 3)
    assert done.code == 0
    first = next(line.split() for line in done.out.splitlines() if line.split()[:1] == ["1"])
    assert first == ["1", "1", "3", "03.png", "b", "caption", "3"]
    assert "contact sheet: " in done.out


def test_json_says_the_same(ask, tmp_path):
    ranking = ranking_of(ask("--image", tmp_path / "images" / "03.png", "-k", 4, "--json"))
    assert [row["rank"] for row in ranking] == [1, 2, 3, 4]
    assert ranking[0] | {"score": 1} == {
        "rank": 1, "score": 1, "item": 3, "name": "03.png", "group": "b", "caption": "caption 3",
    }  # fmt: skip
    assert [row["score"] for row in ranking] == sorted((row["score"] for row in ranking), reverse=True)


def test_more_than_there_are_gives_all(ask, tmp_path):
    assert len(ranking_of(ask("--image", tmp_path / "images" / "03.png", "-k", 500, "--json"))) == COUNT


def test_a_second_picture_costs_its_own_gradients_only(ask, tmp_path):
    first = ask("--image", picture(tmp_path / "a.png", 50), method=DMIN)
    assert "train gradients" in first.err
    second = ask("--image", picture(tmp_path / "b.png", 51), method=DMIN)
    assert "query gradients" in second.err
    assert "train gradients" not in second.err
    third = ask("--image", tmp_path / "a.png", method=DMIN)
    assert "gradients" not in third.err


def test_the_cache_is_that_of_a_run(ask, attrbench, tmp_path, own):
    own.write_text(own.read_text() + '[queries]\nseeds = "0"\n')
    assert attrbench("run", "-m", DMIN, "-t", own, "--out", tmp_path / "out").code == 0
    assert "train gradients" not in ask("--image", tmp_path / "images" / "03.png", method=DMIN).err


def test_a_run_and_an_attribution_of_the_same_pictures_agree(ask, attrbench, tmp_path, own):
    from attrbench.contracts.record import read_records

    own.write_text(own.read_text() + '[queries]\nseeds = "4"\n')
    attrbench("run", "-m", DMIN, "-t", own, "--out", tmp_path / "out")
    (record,) = read_records(tmp_path / "out")[0]
    ranking = ranking_of(ask("--seed", 4, "-k", COUNT, "--json", method=DMIN))
    assert [row["item"] for row in ranking] == record.ranking[0]


@pytest.mark.parametrize("method", ["grad-dot", "d-trak:v=64,timesteps=1", "ssim", "dmin:v=64,search=hnsw,timesteps=1"])
def test_every_kind_of_method_answers(ask, tmp_path, method):
    if method == "ssim":  # its window is as large as these pictures
        pytest.importorskip("skimage")
    assert len(ranking_of(ask("--image", tmp_path / "images" / "03.png", "-k", 3, "--json", method=method))) == 3


def test_several_pictures_are_answered_in_order(ask, tmp_path):
    done = ask("--image", tmp_path / "images" / "03.png", "--image", tmp_path / "images" / "06.png", "--json")
    answers = json.loads(done.out)["queries"]
    assert [answer["ranking"][0]["item"] for answer in answers] == [3, 6]


def tile(sheet, place):
    """The picture at a place of the sheet, counted from the query at 0."""
    left = GAP + place % COLUMNS * (TILE + GAP)
    top = GAP + place // COLUMNS * (TILE + LINES * LINE + 2 * GAP)
    return np.asarray(sheet)[top : top + TILE, left : left + TILE]


def test_the_sheet_shows_the_query_and_then_the_images_by_rank(ask, tmp_path):
    sheet = tmp_path / "sheets" / "sheet.png"
    done = ask("--image", tmp_path / "images" / "03.png", "-k", 9, "--json", "--sheet", sheet)
    assert json.loads(done.out)["sheet"] == str(sheet)
    image = Image.open(sheet)
    train = np.fromfile(next((tmp_path / "out" / "cache" / "images").glob("*.bin")), np.uint8).reshape(COUNT, 8, 8, 1)
    assert np.array_equal(tile(image, 0), np.asarray(picture_of(train[3])))
    for row in ranking_of(done):
        assert np.array_equal(tile(image, row["rank"]), np.asarray(picture_of(train[row["item"]])))


def test_a_seed_alone_asks_about_the_picture_that_the_model_draws_from_it(ask, tmp_path, tiny_folder):
    import torch

    from attrbench.models.families.ddpm import DDPMDenoiser

    ask("--seed", 4, "--sheet", tmp_path / "sheet.png")
    drawn = DDPMDenoiser(tiny_folder, torch.device("cpu"), sampling_steps=2).generate([""], [4])[0]
    assert np.array_equal(tile(Image.open(tmp_path / "sheet.png"), 0), np.asarray(picture_of(drawn)))


def test_the_default_sheet_is_one_a_picture_and_method(ask, tmp_path):
    for name in ("03.png", "04.png", "03.png"):
        ask("--image", tmp_path / "images" / name)
    assert len(list((tmp_path / "out" / "mine").glob("attributed-pixel-*.png"))) == 2


def test_what_data_sets_say_is_shown_as_it_is_and_cannot_command_the_terminal(ask, tmp_path):
    odd = "[bold red]x[/bold red] \x1b[31mred\x07\u202e\nnext [/"
    rows = [{"file_name": f"{index:02d}.png", "text": odd, "family": "\x1b]0;title\x07"} for index in range(COUNT)]
    metadata_csv(tmp_path / "images", *rows)
    done = ask("--image", tmp_path / "images" / "03.png", "-k", 2)
    assert done.code == 0
    assert "[bold red]x[/bold red] ?[31mred?? next [/" in " ".join(done.out.split())
    assert not any(character in done.out for character in "\x1b\x07\u202e")


def test_a_picture_of_a_registered_task(attrbench, tmp_path, cache):
    done = attrbench(
        "attribute", "-m", "pixel", "-t", "digits-mini", "--image", picture(tmp_path / "a.png", 1, (30, 20), "L"),
        "--json", "-k", 2, "--out", tmp_path / "out", "--cache", cache,
    )  # fmt: skip
    assert len(ranking_of(done)) == 2


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        ((), "nothing to attribute", 2),
        (("--image", "nowhere.png"), "nowhere.png: there is no such file", 2),
        (("--image", "IMAGE", "--seed", "1"), "leave out either", 2),
        (("--image", "IMAGE", "--prompt", "a", "--prompt", "b"), "2 prompts for 1 images", 2),
        (("--image", "IMAGE", "--prompt", "a"), "the model takes no prompts", 2),
        (("--image", "BROKEN"), "broken.png cannot be read", 1),
        (("--image", "IMAGE", "--sheet", "IMAGE/below.png"), "cannot write the contact sheet", 1),
    ],
)
def test_wrong_questions_are_one_line(ask, tmp_path, arguments, words, code):
    broken = tmp_path / "broken.png"
    broken.write_bytes((tmp_path / "images" / "03.png").read_bytes()[:60])
    places = {
        "IMAGE": tmp_path / "images" / "03.png",
        "BROKEN": broken,
        "IMAGE/below.png": tmp_path / "images" / "03.png" / "x",
    }
    done = ask(*(places.get(argument, argument) for argument in arguments))
    assert done.code == code
    assert len(done.complaint) == 1
    assert words in done.complaint[0]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("all", "one method and one task"),
        ("pixel:similarity=l2|dot", "one method"),
        ("pixl", "did you mean pixel"),
        ("dmin:k=11", "(10 items)"),
    ],
)
def test_wrong_methods_are_one_line(ask, tmp_path, method, words):
    done = ask("--image", tmp_path / "images" / "03.png", method=method)
    assert done.code == 2
    assert len(done.complaint) == 1
    assert words in done.complaint[0]


def test_a_gradient_that_is_not_finite_is_told_and_exits_3(ask, tmp_path, monkeypatch):
    from attrbench.models.families.ddpm import DDPMDenoiser

    real = DDPMDenoiser.target
    monkeypatch.setattr(DDPMDenoiser, "target", lambda *arguments: real(*arguments) * float("nan"))
    done = ask("--image", tmp_path / "images" / "03.png", method=DMIN)
    assert done.code == 3
    assert "gradients were NaN or infinite" in done.err
