"""`attrbench prepare mixture`, from tiny local sources."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attrbench.errors import Interrupted
from attrbench_tasks.datasets import mixture_writer as mixture_writing
from attrbench_tasks.datasets.mixture import Mixture
from attrbench_tasks.datasets.mixture_entries import MixtureOptions, mixture_entries
from attrbench_tasks.dmin_paper import constants as paper
from tests.tasks.captioned import write_images

SIZES = {"magic-cards": 12, "midjourney": 5, "diffusiondb": 5, "lego-sets": 6, "pokemon": 6, "flowers": 10}


@pytest.fixture
def sources(tmp_path):
    """`--source` for every part; one has its captions in another column."""
    flags = []
    for name, size in SIZES.items():
        column = "en_text" if name == "pokemon" else "text"
        write_images(tmp_path / "from" / name, [None] * size, word=name.replace("-", " "), column=column)
        flags += ["--source", f"{name}={tmp_path / 'from' / name}"]
    return flags


def rows_of(folder):
    found = []
    for split in ("train", "test"):
        with (folder / split / "metadata.csv").open(newline="") as file:
            found += list(csv.DictReader(file))
    return found


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_mixture_holds_every_item_once_noised_copies_and_a_split(attrbench, sources, tmp_path):
    out = tmp_path / "mix"
    done = attrbench("prepare", "mixture:resolution=16", "--out", out, *sources)
    assert done.code == 0, done.err
    rows = rows_of(out)
    plain = [(row["group"], int(row["source_index"])) for row in rows if row["noised"] == "false"]
    assert sorted(plain) == sorted((group, place) for group, size in SIZES.items() for place in range(size))
    copies = [row for row in rows if row["noised"] == "true"]
    assert len(copies) == round(0.05 * sum(SIZES.values()))
    held_out = [row for row in rows if row["split"] == "test"]
    assert len(held_out) == round(0.2 * len(rows))
    for row in rows:
        assert pixels(out / row["split"] / row["file_name"]).shape == (16, 16, 3)
        assert row["text"] == f"{row['group'].replace('-', ' ')} {'abcdefghijkl'[int(row['source_index'])]}"
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert set(manifest["sources"]) == set(paper.SOURCES)
    assert manifest["options"]["seed"] == 0
    assert sum(count["train"] for count in manifest["counts"].values()) == len(rows) - len(held_out)
    assert not (out / ".unfinished.json").exists()


def test_a_noised_copy_is_its_original_with_noise_of_the_stated_size(attrbench, sources, tmp_path):
    out = tmp_path / "mix"
    attrbench("prepare", "mixture:resolution=32,noised_share=1,noise=0.05,held_out_share=0", "--out", out, *sources)
    inner = []
    for group, size in SIZES.items():
        for place in range(size):
            image = pixels(out / "train" / f"{group}-{place:06d}.png")
            copy = pixels(out / "train" / f"{group}-{place:06d}-noised.png")
            inner.append((copy - image)[(image > 60) & (image < 195)])  # where nothing is clipped
    difference = np.concatenate(inner)
    assert abs(difference.mean()) < 0.3
    assert difference.std() == pytest.approx(0.05 * 255, rel=0.03)


def test_the_same_seed_gives_the_same_bytes_and_another_one_another_split(attrbench, sources, tmp_path):
    for name, options in (("a", "seed=1"), ("b", "seed=1"), ("c", "seed=2")):
        assert attrbench("prepare", f"mixture:resolution=8,{options}", "--out", tmp_path / name, *sources).code == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert rows_of(tmp_path / "a") != rows_of(tmp_path / "c")


def test_what_was_cut_off_goes_on_and_ends_the_same(attrbench, sources, tmp_path, monkeypatch):
    command = ("prepare", "mixture:resolution=8", *sources)
    assert attrbench(*command, "--out", tmp_path / "whole").code == 0
    write, calls = mixture_writing._write_image, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) > 20:
            raise Interrupted
        return write(*arguments)

    monkeypatch.setattr(mixture_writing, "_write_image", dies)
    assert attrbench(*command, "--out", tmp_path / "cut").code == 75
    monkeypatch.setattr(mixture_writing, "_write_image", write)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("*.png")}
    assert len(before) == 20
    assert attrbench(*command, "--out", tmp_path / "cut").code == 0
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_nothing_is_written_over(attrbench, sources, tmp_path, monkeypatch):
    out = tmp_path / "mix"
    assert attrbench("prepare", "mixture:resolution=8", "--out", out, *sources).code == 0
    before = contents(out)
    again = attrbench("prepare", "mixture:resolution=8", "--out", out, *sources)
    assert again.code == 0 and "it is there already" in again.out
    other = attrbench("prepare", "mixture:resolution=9", "--out", out, *sources)
    assert other.code == 1
    assert "holds another data set already" in other.complaint[0]
    assert contents(out) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert "is not empty" in attrbench("prepare", "mixture", "--out", tmp_path / "full", *sources).complaint[0]
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".unfinished.json").write_text('{"fingerprint": "other"}')
    other = attrbench("prepare", "mixture:resolution=8", "--out", tmp_path / "begun", *sources)
    assert "was begun with other sources or options" in other.complaint[0]


def test_a_kill_before_the_first_file_is_whole_leaves_a_folder_that_the_same_command_fills(
    attrbench, sources, tmp_path
):
    (tmp_path / "mix").mkdir()
    (tmp_path / "mix" / ".unfinished.json.part-12-ab").write_bytes(b"{")
    done = attrbench("prepare", "mixture:resolution=8", "--out", tmp_path / "mix", *sources)
    assert done.code == 0, done.err


def test_a_kill_before_the_mark_is_removed_leaves_a_data_set_that_the_same_command_finishes(
    attrbench, sources, tmp_path
):
    out, command = tmp_path / "mix", ("prepare", "mixture:resolution=8", *sources, "--out")
    marks = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda path, **rest: marks.append(path))
        assert attrbench(*command, out).code == 0
    assert out / ".unfinished.json" in marks
    assert attrbench(*command, out).code == 0
    assert attrbench(*command, tmp_path / "whole").code == 0
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("mark", [b"", b"[]", b'{"fingerprint"', b"\xff"])
def test_a_damaged_mark_is_one_line(attrbench, sources, tmp_path, mark):
    (tmp_path / "mix").mkdir()
    (tmp_path / "mix" / ".unfinished.json").write_bytes(mark)
    done = attrbench("prepare", "mixture:resolution=8", "--out", tmp_path / "mix", *sources)
    assert done.code == 1
    assert "was begun with other sources or options" in done.complaint[0]


def test_an_image_that_cannot_be_read_is_left_out_and_on_record(attrbench, sources, tmp_path):
    (tmp_path / "from" / "flowers" / "3.png").write_bytes(b"no image")
    out = tmp_path / "mix"
    assert attrbench("prepare", "mixture:resolution=8,noised_share=0", "--out", out, *sources).code == 0
    (name,) = json.loads((out / "manifest.json").read_bytes())["left_out"]
    assert name.endswith("flowers-000003.png")
    assert len(rows_of(out)) == sum(SIZES.values()) - 1


def test_a_source_without_captions_or_within_no_reach_is_one_line(attrbench, sources, tmp_path, monkeypatch):
    write_images(tmp_path / "from" / "flowers", [None] * 3, column="words")
    done = attrbench("prepare", "mixture", "--out", tmp_path / "mix", *sources)
    assert done.code == 1
    assert "source flowers" in done.complaint[0]
    assert "caption_column" in done.complaint[0]
    named = f"flowers={tmp_path / 'from' / 'flowers'}:caption_column=words"
    assert (
        attrbench("prepare", "mixture:resolution=8", "--out", tmp_path / "mix", *sources, "--source", named).code == 0
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (line,) = attrbench("prepare", "mixture", "--out", tmp_path / "other").complaint
    assert "magic-cards" in line
    assert "--source magic-cards=PATH" in line


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("flower=x", "did you mean flowers"),
        ("flowers", "expected NAME=PATH"),
        ("flowers=x:capton_column=y", "did you mean caption_column"),
        ("flowers=x:limit=none", "limit"),
    ],
)
def test_a_wrong_source_is_wrong_usage(attrbench, tmp_path, flag, words):
    done = attrbench("prepare", "mixture", "--out", tmp_path / "mix", "--source", flag)
    assert done.code == 2
    assert words in done.complaint[0]


def test_an_unknown_preparation_is_named(attrbench, tmp_path):
    done = attrbench("prepare", "mixtures", "--out", tmp_path)
    assert done.code == 2
    assert "did you mean mixture" in done.complaint[0]


def test_at_the_papers_size_there_are_as_many_training_items_as_it_says():
    entries = mixture_entries({"all": 11_057}, MixtureOptions())  # the size that leads to 11,610 with 5% more
    assert len(entries) == 11_610
    assert sum(entry.split == "train" for entry in entries) == paper.TRAIN_ITEMS


def test_preparations_are_listed(attrbench):
    done = attrbench("list", "preparations", "--options")
    assert Mixture.summary in done.out
    assert "noised_share=0.05" in done.out
