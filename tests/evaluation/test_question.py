"""Questions to attribution: folders of pictures, their order, captions, and pictures that can't be read."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from attrbench.errors import AttrbenchError, UsageError
from attrbench.evaluation.question import Pictures, Question, check_question
from tests.data.making import captioned, picture


def asked(tmp_path, takes_prompts=True, **question):
    opened = SimpleNamespace(
        model_description=SimpleNamespace(takes_prompts=takes_prompts),
        train=SimpleNamespace(images=np.zeros((1, 8, 8, 3), np.uint8)),
    )
    return Pictures(Question(**question), opened, tmp_path / "cache")


def listed(pictures):
    return [(one.name.rpartition("/")[2], one.prompt) for one in pictures.listed]


def test_pictures_of_a_folder_come_in_name_order_with_the_text_beside_them(tmp_path):
    for name in ("b.png", "a.jpg", "below/c.png"):
        picture(tmp_path / "asked" / name)
        (tmp_path / "asked" / name).with_suffix(".txt").write_text(f"the caption of {name}\n")
    found = listed(asked(tmp_path, folders=[tmp_path / "asked"]))
    names = ["a.jpg", "b.png", "below/c.png"]
    assert found == [(name.rpartition("/")[2], f"the caption of {name}") for name in names]


def test_captions_of_metadata_are_the_prompts_unless_one_is_given_for_all(tmp_path):
    folder = captioned(tmp_path / "asked", 2)
    single = picture(tmp_path / "one.png")
    with_captions = asked(tmp_path, images=[single, single], folders=[folder], prompts=["x", "y"])
    assert [prompt for _, prompt in listed(with_captions)] == ["x", "y", "caption 0", "caption 1"]
    for_all = asked(tmp_path, images=[single], folders=[folder], prompts=["x"])
    assert [prompt for _, prompt in listed(for_all)] == ["x", "x", "x"]
    without_prompts = asked(tmp_path, takes_prompts=False, folders=[folder])
    assert [prompt for _, prompt in listed(without_prompts)] == ["", ""]


def test_a_picture_without_a_caption_is_named_where_the_model_takes_prompts(tmp_path):
    picture(tmp_path / "asked" / "a.png")
    (tmp_path / "asked" / "a.txt").write_text("a caption")
    picture(tmp_path / "asked" / "b.png")
    with pytest.raises(UsageError, match=r"1 of 2 pictures have none, first .*b\.png"):
        asked(tmp_path, folders=[tmp_path / "asked"]).listed  # noqa: B018


def test_links_out_of_a_folder_are_refused(tmp_path):
    outside = picture(tmp_path / "outside.png")
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "a.png").symlink_to(outside)
    with pytest.raises(AttrbenchError, match="is a link to"):
        asked(tmp_path, folders=[tmp_path / "asked"], prompts=[""]).listed  # noqa: B018


def test_blocks_hold_every_picture_once_and_say_which_cannot_be_read(tmp_path):
    for number in range(5):
        picture(tmp_path / "asked" / f"{number}.png", number)
    (tmp_path / "asked" / "2.png").write_bytes(b"no picture")
    pictures = asked(tmp_path, takes_prompts=False, folders=[tmp_path / "asked"])
    blocks = list(pictures.blocks(2, skip=True))
    assert [block.numbers for block in blocks] == [(0, 1), (3,), (4,)]
    assert [(block.first, block.size) for block in blocks] == [(0, 2), (2, 2), (4, 1)]
    name, reason = blocks[1].unread[2]
    assert name.endswith("2.png") and "cannot be read: not an image" in reason
    with pytest.raises(AttrbenchError, match=r"2\.png cannot be read"):
        list(pictures.blocks(2, skip=False))


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"folders": ["nowhere"]}, "there is no folder"),
        ({"folders": ["file.png"]}, "is a file: --image takes it"),
        ({"folders": ["."], "seed": 3}, "leave out either"),
        ({"images": [Image.new("L", (8, 8))], "lowest": -1}, "lowest=-1.*the others at least 0"),
        ({"images": [Image.new("L", (8, 8))], "duplicates": "hide"}, "group or list"),
    ],
)
def test_wrong_questions_are_refused_by_name(tmp_path, question, words):
    (tmp_path / "file.png").touch()
    if "folders" in question:
        question = question | {"folders": [tmp_path / name for name in question["folders"]]}
    with pytest.raises(UsageError, match=words):
        check_question(Question(**question))
