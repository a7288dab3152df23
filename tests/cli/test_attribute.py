"""`attrbench attribute`: the training images behind a picture, as text and as a contact sheet."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image, ImageColor

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.data.open_dataset import load_items
from attrbench.reports.contact_sheet import COLUMNS, GAP, LINE, LINES, QUERY_COLOR, TILE, picture_of
from tests.cli.conftest import OWN_ITEMS
from tests.data.making import metadata_csv, picture
from tests.taskfile.making import write_task

DMIN = "dmin:v=64,timesteps=2"


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
    assert len(ranking_of(ask("--image", tmp_path / "images" / "03.png", "-k", 500, "--json"))) == OWN_ITEMS


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
    ranking = ranking_of(ask("--seed", 4, "-k", OWN_ITEMS, "--json", method=DMIN))
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
    pixels = np.asarray(sheet)
    framed = (pixels == ImageColor.getrgb(QUERY_COLOR)).all(axis=2)
    first = int(framed.sum(axis=1).argmax()) + GAP // 2  # below the heading, and the frame's margin
    left = GAP + place % COLUMNS * (TILE + GAP)
    top = first + place // COLUMNS * (TILE + LINES * LINE + 2 * GAP)
    return pixels[top : top + TILE, left : left + TILE]


def test_the_sheet_shows_the_query_and_then_the_images_by_rank(ask, tmp_path):
    sheet = tmp_path / "sheet.png"
    done = ask("--image", tmp_path / "images" / "03.png", "-k", 9, "--json", "--sheet", sheet)
    assert json.loads(done.out)["sheet"] == str(sheet)
    image = Image.open(sheet)
    source = DatasetSource(path=str(tmp_path / "images"))
    train = load_items(source, 8, tmp_path / "out" / "cache", channels=1).images
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
    rows = [{"file_name": f"{index:02d}.png", "text": odd, "family": "\x1b]0;title\x07"} for index in range(OWN_ITEMS)]
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
        (("--image", "IMAGE", "--seed", "-1"), "a seed is a whole number from 0 to", 2),
        (("--seed", str(2**63)), "a seed is a whole number from 0 to", 2),
        (("--image", "IMAGE", "--sheet", "IMAGE"), "is the picture to attribute", 2),
        (("--image", "IMAGE", "--sheet", "IMAGE", "--force"), "is the picture to attribute", 2),
        (("--image", "IMAGE", "--sheet", "BROKEN"), "is there already", 2),
        (("--image", "IMAGE", "--sheet", "sheet.txt"), "a picture's name is needed", 2),
        (("--image", "IMAGE", "--sheet", "sheet"), "a picture's name is needed", 2),
        (("--image", "IMAGE", "--sheet", "FOLDER"), "is a folder", 2),
        (("--image", "IMAGE", "--sheet", "TYPO"), "did you mean", 2),
    ],
)
def test_wrong_questions_are_one_line(ask, tmp_path, arguments, words, code):
    broken = tmp_path / "broken.png"
    broken.write_bytes((tmp_path / "images" / "03.png").read_bytes()[:60])
    places = {
        "IMAGE": tmp_path / "images" / "03.png",
        "BROKEN": broken,
        "FOLDER": tmp_path / "folder.png",
        "TYPO": tmp_path / "imges" / "sheet.png",
    }
    places["FOLDER"].mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png") if path.is_file()}
    done = ask(*(places.get(argument, argument) for argument in arguments))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png") if path.is_file()} == before
    assert not places["TYPO"].parent.exists()
    assert done.code == code
    assert len(done.complaint) == 1
    assert words in done.complaint[0]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("all", "one method and one task"),
        ("pixl", "did you mean pixel"),
        ("dmin:k=11", "(10 items)"),
    ],
)
def test_wrong_methods_are_one_line(ask, tmp_path, method, words):
    done = ask("--image", tmp_path / "images" / "03.png", method=method)
    assert done.code == 2
    assert len(done.complaint) == 1
    assert words in done.complaint[0]


@pytest.fixture
def lost_where_blank(monkeypatch, tmp_path):
    """A picture of one color, for which every gradient is NaN."""
    from attrbench.models.families.ddpm import DDPMDenoiser

    def target(self, latents, noise, t, real=DDPMDenoiser.target):
        values = real(self, latents, noise, t).clone()
        values[latents.flatten(1).std(dim=1) < 1e-6] = float("nan")
        return values

    monkeypatch.setattr(DDPMDenoiser, "target", target)
    Image.new("L", (8, 8), 77).save(tmp_path / "blank.png")
    return tmp_path / "blank.png"


def test_a_query_without_gradients_has_no_ranks_and_every_output_says_so(ask, tmp_path, lost_where_blank):
    asked = "--image", tmp_path / "images" / "03.png", "--image", lost_where_blank, "-k", 3
    done = ask(*asked, "--json", "--sheet", tmp_path / "lost.png", method=DMIN)
    assert done.code == 3
    said = json.loads(done.out)
    assert [len(answer["ranking"]) for answer in said["queries"]] == [3, 0]
    lost, equal = said["warnings"]
    assert "gradients were NaN or infinite and count as zero, first that of query item 1" in lost
    assert "1 of 2 queries have no ranking, first query 1" in equal
    assert {tuple(entry[:2]) for entry in said["nonfinite"]} == {("query", 1)}
    assert all(f"attrbench: {line}" in done.err for line in said["warnings"])
    assert "not ranked: all training items have the same score" in ask(*asked, method=DMIN).out
    ask(*asked[:2], "-k", 3, "--sheet", tmp_path / "sound.png", method=DMIN)
    rows = red_rows(tmp_path / "lost.png"), red_rows(tmp_path / "sound.png")
    assert rows[0] > rows[1] == 0  # the warning stands above the query's frame


def red_rows(sheet):
    """How many rows of pixels above the first query's frame have text in the color of warnings."""
    red = (np.asarray(Image.open(sheet)).astype(int) - ImageColor.getrgb(QUERY_COLOR)).__abs__().sum(axis=2) < 120
    return int(red[: int(red.sum(axis=1).argmax())].any(axis=1).sum())


def test_a_picture_all_of_whose_gradients_are_lost_is_an_error_that_says_so(ask, lost_where_blank):
    done = ask("--image", lost_where_blank, method=DMIN)
    assert done.code == 1
    assert "there is no ranking: 2 gradients were NaN or infinite" in done.complaint[0]
    assert "rank" not in done.out


def test_weights_that_are_not_finite_are_refused_by_name(ask, attrbench, tmp_path, own, tiny_folder):
    import torch

    with changed_weights(tiny_folder, tmp_path / "model") as module:
        module.conv_in.weight.data[0, 0, 0, 0] = torch.nan
    own.write_text(
        own.read_text().replace(str(tiny_folder), str(tmp_path / "model")) + '[queries]\nimages = "images"\n'
    )
    asked = ask("--image", tmp_path / "images" / "03.png", method=DMIN)
    ran = attrbench("run", "-m", DMIN, "-t", own, "--out", tmp_path / "out", "--device", "cpu")
    for done in (asked, ran):
        assert done.code == 1
        assert "NaN or infinite values (1 of 72 in conv_in.weight)" in done.complaint[0]


def test_scores_beyond_float32_are_refused_not_ranked(ask, attrbench, tmp_path, own, tiny_folder):
    from attrbench.contracts.record import read_records

    with changed_weights(tiny_folder, tmp_path / "model") as module:
        module.conv_out.weight.data *= 1e18
    own.write_text(
        own.read_text().replace(str(tiny_folder), str(tmp_path / "model")) + '[queries]\nimages = "images"\n'
    )
    asked = ask("--image", tmp_path / "images" / "03.png", method="grad-dot:timesteps=1")
    assert asked.code == 1
    assert "too large for float32" in asked.complaint[0]
    methods = "grad-dot:timesteps=1", "grad-cos:timesteps=2"
    flags = [part for method in methods for part in ("-m", method)]
    assert attrbench("run", *flags, "-t", own, "--out", tmp_path / "out", "--device", "cpu").code == 1
    records, _ = read_records(tmp_path / "out")
    assert [record.status for record in records] == ["failed"] * 2
    assert all("too large for float32" in record.error for record in records)


@contextmanager
def changed_weights(folder, copy):
    """A copy of a pipeline's folder; what is done to the network in the `with` block is saved."""
    from diffusers import DDPMPipeline

    pipeline = DDPMPipeline.from_pretrained(folder)
    yield pipeline.unet
    pipeline.save_pretrained(copy)


def test_a_sheet_is_replaced_with_force_only(ask, tmp_path):
    asked = "--image", tmp_path / "images" / "03.png", "--sheet", tmp_path / "sheet.png"
    assert ask(*asked).code == 0
    written = (tmp_path / "sheet.png").read_bytes()
    assert ask(*asked, "-k", 2).code == 2
    assert (tmp_path / "sheet.png").read_bytes() == written
    assert ask(*asked, "-k", 2, "--force").code == 0
    assert (tmp_path / "sheet.png").read_bytes() != written


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "JPEG"), ("a.WEBP", "WEBP"), ("a.tiff", "TIFF")])
def test_the_sheet_has_the_format_of_its_name(ask, tmp_path, name, kind):
    assert ask("--image", tmp_path / "images" / "03.png", "--sheet", tmp_path / name).code == 0
    assert Image.open(tmp_path / name).format == kind


def test_many_queries_come_in_pages_of_which_none_replaces_a_file(ask, tmp_path):
    asked = [
        part for number in range(25) for part in ("--image", tmp_path / "images" / f"{number % OWN_ITEMS:02d}.png")
    ]
    (tmp_path / "sheet-2.png").write_bytes(b"mine")
    refused = ask(*asked, "--sheet", tmp_path / "sheet.png")
    assert refused.code == 2 and "sheet-2.png is there already" in refused.complaint[0]
    assert (tmp_path / "sheet-2.png").read_bytes() == b"mine" and not (tmp_path / "sheet-1.png").exists()
    done = ask(*asked, "--json", "--sheet", tmp_path / "sheet.png", "--force")
    pages = json.loads(done.out)["sheets"]
    assert pages == [str(tmp_path / f"sheet-{number}.png") for number in (1, 2, 3)]
    assert not (tmp_path / "sheet.png").exists()
    assert all(Image.open(page).height < 5000 for page in pages)


def test_a_long_caption_is_cut_on_the_terminal_and_whole_in_json(ask, tmp_path):
    caption = "tulip " * 800 + "end"
    metadata_csv(tmp_path / "images", *({"file_name": f"{i:02d}.png", "text": caption} for i in range(OWN_ITEMS)))
    asked = "--image", tmp_path / "images" / "03.png", "-k", 1
    task = write_task(tmp_path / "long.toml", model={"model": "m", "sampling_steps": 2}, train={"path": "images"})
    task.write_text((tmp_path / "own.toml").read_text().replace('group_column = "family"', ""))
    assert len(ask(*asked, task=task).out) < 2500
    assert ranking_of(ask(*asked, "--json", task=task))[0]["caption"] == caption
