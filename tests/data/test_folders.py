"""Image folders follow the imagefolder convention, and each fault is one line that names the file and the row."""

import re

import pytest

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.data.open_dataset import list_items, load_items
from attrbench.errors import AttrbenchError
from tests.data.making import captioned, metadata_csv, metadata_jsonl, picture


def listed(folder, cache=None, **options):
    return list_items(DatasetSource(path=str(folder), **options), cache or folder)


def complaint(folder, **options):
    with pytest.raises(AttrbenchError) as caught:
        listed(folder, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_without_metadata_files_come_by_name_and_groups_are_their_folders(tmp_path):
    for number, name in enumerate(
        ["b/2.png", "b/1.jpg", "a/deep/3.PNG", "0.webp", "z.png", ".hidden.png", ".x/4.png", "b/notes.txt"]
    ):
        if name.endswith("txt"):
            (tmp_path / name).write_text("no image")
        else:
            picture(tmp_path / name, number)
    found = listed(tmp_path)
    assert list(found.names) == ["0.webp", "a/deep/3.PNG", "b/1.jpg", "b/2.png", "z.png"]
    assert list(found.groups) == ["", "deep", "b", "b", ""]
    assert found.captions is None


def test_one_folder_is_no_group(tmp_path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png", 1)
    assert listed(tmp_path).groups is None


@pytest.mark.parametrize("write", [metadata_csv, metadata_jsonl])
def test_with_metadata_the_order_is_that_of_its_rows(tmp_path, write, caplog):
    for number, name in enumerate(["a.png", "b.png", "sub/c.png", "unnamed.png"]):
        picture(tmp_path / name, number)
    write(
        tmp_path,
        {"file_name": "sub/c.png", "text": 'a "quoted", one', "family": 1},
        {"file_name": "a.png", "text": "zwei Bücher", "family": 2},
        {"file_name": "b.png", "text": "", "family": 1},
    )
    found = listed(tmp_path, group_column="family")
    assert list(found.names) == ["sub/c.png", "a.png", "b.png"]
    assert list(found.captions) == ['a "quoted", one', "zwei Bücher", ""]
    assert list(found.groups) == ["1", "2", "1"]
    assert "1 of the images" in caplog.text


def test_metadata_may_lie_in_the_folders_below_with_names_relative_to_it(tmp_path):
    for split in ("train", "test"):
        captioned(tmp_path / split, 2)
    assert list(listed(tmp_path).names) == ["test/00.png", "test/01.png", "train/00.png", "train/01.png"]
    assert list(listed(tmp_path, split="train").names) == ["00.png", "01.png"]
    assert "did you mean" in complaint(tmp_path, split="trian")


def test_the_group_column_is_named_or_called_group(tmp_path):
    picture(tmp_path / "a.png")
    metadata_csv(tmp_path, {"file_name": "a.png", "group": "cats", "family": "felines"})
    assert list(listed(tmp_path).groups) == ["cats"]
    assert list(listed(tmp_path, group_column="family").groups) == ["felines"]
    metadata_csv(tmp_path, {"file_name": "a.png", "family": "felines"})
    assert listed(tmp_path).groups is None


def test_the_caption_column_is_named_or_the_usual_one(tmp_path):
    picture(tmp_path / "a.png")
    metadata_csv(tmp_path, {"file_name": "a.png", "caption": "two", "words": "three"})
    assert list(listed(tmp_path).captions) == ["two"]
    assert list(listed(tmp_path, caption_column="words").captions) == ["three"]
    metadata_csv(tmp_path, {"file_name": "a.png", "caption": "two", "text": "one"})
    assert list(listed(tmp_path).captions) == ["one"]


def test_a_limit_takes_the_first(tmp_path):
    assert list(listed(captioned(tmp_path), limit=2).names) == ["00.png", "01.png"]


@pytest.fixture
def outward(tmp_path):
    """A folder with a picture of its own, and a function that links something in it to something elsewhere."""
    folder = tmp_path / "folder"
    picture(folder / "own.png")
    picture(tmp_path / "elsewhere" / "a.png")

    def link(name, target):
        (folder / name).symlink_to(tmp_path / target, target_is_directory=(tmp_path / target).is_dir())
        return folder

    return link


@pytest.mark.parametrize(("name", "target"), [("link", "elsewhere"), ("a.png", "elsewhere/a.png"), ("up", ".")])
def test_a_link_out_of_the_folder_is_refused_by_name_unless_it_is_allowed(outward, name, target):
    folder = outward(name, target)
    with pytest.raises(AttrbenchError, match="follow_links = true") as caught:
        listed(folder)
    assert str(caught.value).startswith(f"{folder / name} is a link to ") and "\n" not in str(caught.value)
    assert len(listed(folder, follow_links=True).names) == 2


def test_a_picture_that_metadata_names_may_be_no_link_out_of_the_folder(outward, tmp_path):
    folder = outward(".hidden", "elsewhere")
    metadata_csv(folder, {"file_name": ".hidden/a.png", "text": "x"})
    with pytest.raises(AttrbenchError, match="hidden is a link to"):
        listed(folder)
    picture(folder / "a.png")
    (folder / "metadata.csv").rename(tmp_path / "rows.csv")
    metadata_csv(tmp_path, {"file_name": "a.png", "text": "x"})
    (folder / "metadata.csv").symlink_to(tmp_path / "metadata.csv")
    with pytest.raises(AttrbenchError, match=r"metadata\.csv is a link to"):
        listed(folder)


def test_links_within_the_folder_are_followed_and_circles_are_not(tmp_path):
    folder = tmp_path / "folder"
    picture(folder / "deep" / "a.png")
    (folder / "b.png").symlink_to(folder / "deep" / "a.png")
    (folder / "round").symlink_to(folder, target_is_directory=True)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert list(listed(folder).names) == list(listed(tmp_path / "link").names) == ["b.png", "deep/a.png"]


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (
            [{"file_name": "a.png", "text": "x"}, {"file_name": "aa.png", "text": "y"}],
            {},
            ["line 3", "aa.png", "but a.png"],
        ),
        ([{"file_name": "a.png", "text": "x"}] * 2, {}, ["line 3", "a.png was named before", "line 2"]),
        (
            [{"file": "a.png", "text": "x"}],
            {},
            ["metadata.csv has no column 'file_name'", "it has file, text|did you mean"],
        ),
        (
            [{"file_name": "a.png", "captoin": "x"}],
            {"caption_column": "caption"},
            ["no column 'caption'", "did you mean captoin?"],
        ),
        ([{"file_name": "a.png", "text": "x"}], {"group_column": "family"}, ["no column 'family'", "group_column"]),
        ([{"file_name": "../a.png", "text": "x"}], {}, ["line 2", "../a.png"]),
        ([{"file_name": "/a.png", "text": "x"}], {}, ["line 2", "/a.png"]),
        ([{"file_name": "", "text": "x"}], {}, ["line 2"]),
    ],
)
def test_faults_of_metadata_are_named_with_their_row(tmp_path, rows, options, words):
    picture(tmp_path / "a.png")
    metadata_csv(tmp_path, *rows)
    line = complaint(tmp_path, **options)
    for word in words:
        assert re.search(word, line), line


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metadata.csv", b"file_name,text\na.png,one, two\n", ["line 2", "more values than columns"]),
        ("metadata.jsonl", b"[" * 100_000, ["line 1: not JSON", "recursion"]),
        ("metadata.csv", b'file_name,text\na.png,"one\n', ["after line 1: unexpected end"]),
        ("metadata.csv", b"file_name,text\na.png,\xff\n", ["not UTF-8"]),
        ("metadata.csv", b"file_name,text\n", ["no rows"]),
        ("metadata.csv", b"", ["no rows"]),
        ("metadata.jsonl", b'{"file_name": "a.png"\n', ["line 1", "not JSON"]),
        ("metadata.jsonl", b"\n[1]\n", ["line 2", "not a JSON object"]),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": ["one"]}\n', ["line 1", "'text' holds a list"]),
    ],
)
def test_broken_metadata_is_named_with_its_line(tmp_path, name, content, words):
    picture(tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    line = complaint(tmp_path)
    for word in words:
        assert re.search(word, line), line


def test_a_byte_order_mark_is_no_fault(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_bytes("\ufefffile_name,text\r\na.png,one\r\n".encode())
    assert list(listed(tmp_path).captions) == ["one"]


def test_two_kinds_of_metadata_are_one_too_many(tmp_path):
    metadata_jsonl(captioned(tmp_path), {"file_name": "00.png"})
    assert "both metadata.csv and metadata.jsonl" in complaint(tmp_path)


def test_empty_captions_and_short_rows_are_told_by_count_and_first(tmp_path, caplog):
    captioned(tmp_path, 4)
    assert "empty" not in (listed(tmp_path) and caplog.text)
    (tmp_path / "metadata.csv").write_text("file_name,text,family\n00.png,a,b\n01.png\n02.png,,c\n03.png, ,c\n")
    assert list(listed(tmp_path).captions) == ["a", "", "", " "]
    short, empty = caplog.messages
    assert short.startswith("1 of 4 rows have fewer values") and short.endswith("metadata.csv, line 3")
    assert empty.startswith("3 of the 4 captions") and empty.endswith("first that of 01.png")


def test_a_wrong_path_says_what_is_there_instead(tmp_path):
    captioned(tmp_path / "pictures")
    assert complaint(tmp_path / "picturs").endswith(f"did you mean {tmp_path / 'pictures'}?")
    assert "is missing too" in complaint(tmp_path / "no" / "where")
    assert "is a file" in complaint(tmp_path / "pictures" / "00.png")


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    assert f"there is no image in {tmp_path / 'empty'}" in complaint(tmp_path / "empty")


def test_columns_need_metadata(tmp_path):
    picture(tmp_path / "a.png")
    assert "has no metadata.csv or metadata.jsonl" in complaint(tmp_path, caption_column="text")


def test_captions_are_asked_for_only_where_the_model_needs_them(tmp_path):
    picture(tmp_path / "images" / "a.png")
    source = DatasetSource(path=str(tmp_path / "images"))
    assert list(load_items(source, 8, tmp_path).prompts) == [""]
    with pytest.raises(AttrbenchError, match=r"has no captions, and the model takes prompts.*caption_column"):
        load_items(source, 8, tmp_path, captions=True)
