"""`attrbench new task` writes a file that is valid once its paths are filled in."""

import re
import tomllib

import pytest

from attrbench.taskfile.contents import DatasetSource, ModelConfig, QueryTable, TaskTable
from attrbench.taskfile.read import read_task

FAMILIES = ("sd1", "sd3", "ddpm")
TABLES = {"task": TaskTable, "model": ModelConfig, "train": DatasetSource, "queries": QueryTable, "tuning": QueryTable}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_is_valid_as_it_stands(attrbench, tmp_path, family):
    path = tmp_path / "my flowers.toml"
    done = attrbench("new", "task", path, "--family", family)
    assert done.code == 0
    assert str(path) in done.out
    task = read_task(path, {})
    assert task.meta.name == "my-flowers"
    assert "path/to" in task.options.train.path


@pytest.mark.parametrize("family", FAMILIES)
def test_and_with_every_comment_taken_at_its_word(attrbench, tmp_path, family):
    """The keys that are commented out exist, and what they show as their value is allowed."""
    path = tmp_path / "t.toml"
    attrbench("new", "task", path, "--family", family)
    text = re.sub(r"^# (\w+ = |\[)", r"\1", path.read_text(), flags=re.MULTILINE)
    assert text != path.read_text()
    path.write_text(text)
    read_task(path, {})
    for table, values in tomllib.loads(text).items():
        for key, value in values.items():
            default = TABLES[table].model_fields[key].default
            shown = re.search(rf"^# {key} = (.*?) +#", text, flags=re.MULTILINE)
            assert shown is None or value == default or default is None


def test_the_lines_that_it_recommends_are_valid(attrbench, tmp_path):
    path = tmp_path / "t.toml"
    attrbench("new", "task", path)
    commands = re.findall(r"^#   attrbench (.*)", path.read_text(), flags=re.MULTILINE)
    assert len(commands) == 2
    assert all("-t t.toml" in command for command in commands)


def test_a_file_that_is_there_stays_unless_forced(attrbench, tmp_path):
    path = tmp_path / "t.toml"
    path.write_text("mine")
    done = attrbench("new", "task", path)
    assert done.code == 1
    assert done.complaint == [
        f"attrbench: error: {path} is there already: choose another name, or write over it with --force"
    ]
    assert path.read_text() == "mine"
    assert attrbench("new", "task", path, "--force").code == 0
    assert read_task(path, {}).meta.name == "t"


def test_a_name_without_toml_is_refused(attrbench, tmp_path):
    done = attrbench("new", "task", tmp_path / "t.txt")
    assert done.code == 2
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_one_line(attrbench, tmp_path):
    (tmp_path / "file").touch()
    done = attrbench("new", "task", tmp_path / "file" / "t.toml")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
