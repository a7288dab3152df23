"""The commands of the tutorials, one after the other in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parent.parent.parent / "docs" / "tutorials"
PAGE = (TUTORIALS / "which-training-images.md").read_text(encoding="utf-8")
RANKING = re.compile(r"^ +1 +[\d.]+ +(\d+) +(\d+)\s*$", flags=re.MULTILINE)


def transcripts():
    """Return (command, what the page shows of its output) of every command of attrbench."""
    blocks = re.findall(r"^```console\n\$ (attrbench [^\n]*)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == PAGE.count("$ attrbench")
    return blocks


@pytest.mark.slow
def test_every_command_works_and_the_image_that_comes_first_is_the_one_that_is_shown(attrbench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command, shown in transcripts():
        arguments = shlex.split(command)[1:]
        done = attrbench(*arguments, *(["--device", "cpu"] if "-t" in arguments else []))
        assert done.code == 0, f"{command}: {done.err}"
        assert RANKING.findall(done.out) == RANKING.findall(shown)
    assert RANKING.findall(PAGE) == [("1320", "5")]
    assert "gallery" in (tmp_path / "seven.html").read_text(encoding="utf-8")
    assert "pixel" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_every_command_that_is_named_exists(attrbench):
    for command in re.findall(r"`(attrbench list \w+)`", PAGE):
        assert attrbench(*shlex.split(command)[1:]).code == 0
