"""Reading a task file: what it may say, and one line for everything that is wrong with it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attrbench.contracts.options import parse_spec
from attrbench.data.open_dataset import list_items
from attrbench.errors import AttrbenchError, UsageError
from attrbench.taskfile.contents import QueryTable, seeds_of
from attrbench.taskfile.names import is_file
from attrbench.taskfile.prompts import draws_of
from attrbench.taskfile.read import read_task
from tests.taskfile.making import write_task


def complaint(path, given=None):
    with pytest.raises(UsageError) as caught:
        read_task(path, given or {})
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def test_a_file_is_read(tmp_path):
    task = read_task(write_task(tmp_path / "t.toml", queries={"prompts": ["a", "b"], "seeds": "3-4"}), {})
    assert task.meta.name == "mine"
    assert task.meta.train_items is None
    assert task.model.model == "model"  # there is no such folder: it can only be a hub id
    drawn = draws_of(task.options.queries, tmp_path)
    assert [(draw.prompt, draw.seed) for draw in drawn] == [("a", 3), ("a", 4), ("b", 3), ("b", 4)]


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    for name in ("model", "images", "lora"):
        (tmp_path / name).mkdir()
    model = {"model": "model", "lora": "./lora"}
    task = read_task(write_task(tmp_path / "t.toml", model=model, queries={"images": "no/where/pictures"}), {})
    assert task.model.model == str(tmp_path / "model")
    assert task.model.lora == str(tmp_path / "lora")
    assert task.train_source.path == str(tmp_path / "images")
    assert task.query_source.path == str(tmp_path / "no/where/pictures")


def test_a_path_stays_one_where_the_file_is_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path / "t.toml", train={"path": "./imags"})
    (tmp_path / "images").mkdir()
    task = read_task(Path("t.toml"), {})
    assert task.train_source.path == str(tmp_path / "imags")
    with pytest.raises(AttrbenchError, match=r"there is no folder .*imags: did you mean .*images"):
        list_items(task.train_source, tmp_path)


def test_an_id_of_the_hub_stays_one(tmp_path):
    task = read_task(write_task(tmp_path / "t.toml", model={"model": "owner/name"}, train={"path": "cifar10"}), {})
    assert (task.model.model, task.train_source.path) == ("owner/name", "cifar10")


def test_options_stand_above_the_file(tmp_path):
    path = write_task(tmp_path / "t.toml", train={"path": "images", "limit": 7}, queries={"seeds": "0-9"})
    given = {"model.resolution": "64", "train.limit": "none", "queries.seeds": "5", "model.offload": "true"}
    task = read_task(path, given)
    assert task.model.resolution == 64
    assert task.model.offload is True
    assert task.options.train.limit is None
    assert seeds_of(task.options.queries.seeds) == [5]
    assert read_task(path, {"queries.images.path": "x"}).options.queries.images.path == "x"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model.resolutoin": "64"}, ["model.resolutoin", "did you mean resolution?"]),
        ({"model.resolution": "big"}, ["option model.resolution=big", "valid integer"]),
        ({"resolution": "64"}, ["TABLE.KEY=VALUE"]),
        ({"task.name.x": "64"}, ["name is no table"]),
    ],
)
def test_wrong_options_are_named(tmp_path, given, words):
    line = complaint(write_task(tmp_path / "t.toml"), given)
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"train": {"path": "x", "captoin": "text"}}, ["line 9", "[train]", "did you mean caption_column?"]),
        ({"trian": {"path": "x"}}, ["line 10", "unknown table 'trian'", "did you mean train?"]),
        ({"train": None}, ["the table [train] is missing"]),
        ({"model": {"lora": "x"}}, ["[model]: the key 'model' is missing"]),
        ({"model": {"model": "x", "dtype": "int4"}}, ["line 6", "dtype", "'float32', 'bfloat16' or 'float16'"]),
        ({"task": {"name": "no/name"}}, ["line 2", "name"]),
        ({"queries": {"prompts": []}}, ["prompts: the list is empty"]),
        ({"queries": {}}, ["[queries]|queries", "give prompts, seeds"]),
        ({"queries": {"seeds": "9-0"}}, ["line 11", "a range goes up"]),
        ({"queries": {"seeds": "all"}}, ["'all' is no range of seeds"]),
        ({"queries": {"seeds": [1, 1]}}, ["different numbers"]),
        ({"queries": {"seeds": [2**64]}}, [f"different numbers from 0 to {2**63 - 1}"]),
        ({"queries": {"seeds": str(2**63)}}, [f"numbers from 0 to {2**63 - 1}"]),
        ({"queries": {"prompts": ["a", "b"], "groups": ["x"]}}, ["1 groups for 2 prompts"]),
        ({"queries": {"seeds": "0-2", "groups": ["x"]}}, ["1 groups for 3 seeds"]),
        ({"queries": {"images": "x", "groups": ["x"]}}, ["group_column"]),
        (
            {"queries": {"prompts": ["a"]}, "queries__images": {"path": "x", "pth": "y"}},
            ["line 15", "[queries.images]", "did you mean path?"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named_with_its_place(tmp_path, tables, words):
    line = complaint(write_task(tmp_path / "t.toml", **tables))
    for word in words:
        assert any(choice in line for choice in word.split("|")), line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[task\nname = 1", "not valid TOML.*line 1"),
        (b"\xff\xfe", "not UTF-8"),
        (b"", "the table .task. is missing"),
        (b"task = 3", "task"),
    ],
)
def test_no_toml_is_one_line(tmp_path, content, words):
    path = tmp_path / "t.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_task(path, {})


def test_a_missing_file_names_the_nearest(tmp_path):
    write_task(tmp_path / "flowers.toml")
    assert f"did you mean {tmp_path / 'flowers.toml'}?" in complaint(tmp_path / "flower.toml")
    assert "attrbench new task" in complaint(tmp_path / "xyz.toml")
    assert "must end in .toml" in complaint(tmp_path / "flowers")


def test_what_names_a_file():
    assert is_file("t.toml") and is_file("./t") and is_file("a/b.toml")
    assert not is_file("sd3-full") and not is_file("toml")


@pytest.mark.parametrize(
    ("text", "name", "given"),
    [
        ("t.toml", "t.toml", {}),
        ("./a:b/t.toml", "./a:b/t.toml", {}),
        ("t.toml:model.resolution=64,train.path=a/b", "t.toml", {"model.resolution": "64", "train.path": "a/b"}),
    ],
)
def test_the_option_grammar_takes_paths(text, name, given):
    (spec,) = parse_spec(text)
    assert (spec.name, spec.given) == (name, given)
    assert str(spec) == text


@given(st.integers(0, 10**6), st.integers(0, 99))
def test_a_range_has_both_ends(first, more):
    assert seeds_of(f"{first}-{first + more}") == list(range(first, first + more + 1))
    assert seeds_of(str(first)) == [first]


class TestPrompts:
    def test_come_from_a_file_of_lines(self, tmp_path):
        (tmp_path / "p.txt").write_text("one\n\n  two, with comma \n")
        assert [draw.prompt for draw in draws_of(QueryTable(prompts="p.txt"), tmp_path)] == ["one", "two, with comma"]

    def test_or_from_a_table_with_groups(self, tmp_path):
        (tmp_path / "p.csv").write_text('prompt,group\n"a, b",x\nc,y\n')
        drawn = draws_of(QueryTable(prompts="p.csv", seeds=[1, 2]), tmp_path)
        assert [(draw.prompt, draw.seed, draw.group) for draw in drawn] == [
            ("a, b", 1, "x"),
            ("a, b", 2, "x"),
            ("c", 1, "y"),
            ("c", 2, "y"),
        ]

    @pytest.mark.parametrize(
        ("name", "content", "query", "words"),
        [
            ("p.txt", None, {}, "cannot read the prompts in .*p.txt.*list"),
            ("p.txt", b"\n", {}, "no prompts in"),
            ("p.txt", b"\xff", {}, "not UTF-8"),
            ("p.csv", b"promt\nx\n", {}, "no column 'prompt' .*did you mean promt"),
            ("p.csv", b"prompt,group\nx,y\n", {"groups": ["z"]}, "keep one of them"),
            ("p.txt", b"a\nb\n", {"groups": ["z"]}, "1 groups for 2 prompts"),
            ("p.csv", b'prompt\n"x\n', {}, "after line 1"),
        ],
    )
    def test_faults_of_the_file_are_one_line(self, tmp_path, name, content, query, words):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(AttrbenchError, match=words) as caught:
            draws_of(QueryTable(prompts=name, **query), tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("table", "key"), [("task", "version"), ("train", "limit"), ("model", "sampling_steps")])
def test_true_is_no_number(tmp_path, table, key):
    tables = {"task": {"name": "mine"}, "model": {"model": "model"}, "train": {"path": "images"}}
    path = write_task(tmp_path / "mine.toml", **(tables | {table: tables[table] | {key: True}}))
    with pytest.raises(UsageError, match=rf"line \d+: \[{table}\]: {key}: a number is asked for, not true"):
        read_task(path, {})
