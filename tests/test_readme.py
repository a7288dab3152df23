"""What README.md and docs/reference/cli.md show is what the code does and the published records say.

`ATTRBENCH_WRITE_DOCS=1 pytest tests/test_readme.py` rewrites the generated parts.
"""

import contextlib
import io
import itertools
import os
import re
import shlex
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import typer

from attrbench.cli.app import main
from attrbench.cli.typer_app import command_line
from attrbench.contracts.options import build_options, parse_spec
from attrbench.contracts.record import read_records
from attrbench.plugins.registry import Plugin, Registry, registry
from attrbench.reports.leaderboard_table import to_markdown
from attrbench.reports.ranking import build_tables
from attrbench.taskfile.names import is_file
from tests.readme_tables import ICON_TASKS, rates_by_task, removal_rows, tuned_rows

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RECORDS = ROOT / "leaderboards" / "README.md"
CLI = ROOT / "docs" / "reference" / "cli.md"
VERBS = (
    "list",
    "run",
    "tune",
    "attribute",
    "status",
    "leaderboard",
    "criteria",
    "compare",
    "show",
    "score",
    "reproduce",
    "records ls",
    "records verify",
    "records rm",
    "report",
    "check",
    "new task",
    "new method",
    "new metric",
    "train",
    "prepare",
    "ground-truth build",
    "ground-truth verify",
    "doctor",
    "cache ls",
    "cache verify",
    "cache gc",
)
WRITE = os.environ.get("ATTRBENCH_WRITE_DOCS") == "1"


def check(path: Path, expected: str) -> None:
    if WRITE:
        path.write_text(expected)
    assert path.read_text() == expected


def help_of(*verb: str) -> str:
    environment = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    printed = io.StringIO()
    with (
        patch.dict(os.environ, environment),
        patch.object(sys, "argv", ["attrbench", *verb, "--help"]),
        contextlib.redirect_stdout(printed),
        pytest.raises(SystemExit) as stop,
    ):
        main()
    assert not stop.value.code
    lines = (line.rstrip() for line in printed.getvalue().strip().splitlines())
    return re.sub(r"\AUsage: .*?attrbench", "Usage: attrbench", "\n".join(lines))  # named after pytest otherwise


def reference() -> str:
    sections = [f"# The command line\n\nWhat `--help` prints.\n\n```\n{help_of()}\n```\n"]
    sections += [f"## attrbench {verb}\n\n```\n{help_of(*verb.split())}\n```\n" for verb in VERBS]
    return "\n".join(sections)


def test_the_command_line_reference_names_every_flag_of_every_verb():
    """Layout and wording are Typer's, and differ between its versions; flags and help texts are ours."""
    current = reference()
    if WRITE:
        CLI.write_text(current)

    def flags(text: str) -> dict[str, set[str]]:
        parts = re.split(r"^## attrbench ", text, flags=re.MULTILINE)
        return {part.split("\n", 1)[0]: set(re.findall(r"--[a-z][a-z-]+", part)) for part in parts[1:]}

    assert flags(CLI.read_text()) == flags(current)


def test_the_readme_shows_the_published_leaderboard():
    records, problems = read_records(ROOT / "leaderboards")
    assert not problems
    ours = [record for record in records if record.task.name == "ddpm-mnist-mini"]
    untuned = [record for record in ours if record.tuned is None]
    (table,) = build_tables([record for record in untuned if "noise" not in record.method.options_given])
    shown = {
        "leaderboard": to_markdown([table]).split("\n", 2)[2],  # without its heading
        "tuned": tuned_rows([record for record in ours if record.tuned is not None]),
        "icons": rates_by_task(records, ICON_TASKS, least=3),
        "removal": removal_rows([record for record in records if record.task.name == "mnist-removal-mini"]),
    }
    text = README.read_text()
    for name, lines in shown.items():
        marked = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(marked, lambda match, lines=lines: f"{match[1]}{lines}{match[2]}", text, flags=re.DOTALL)
    check(README, text)


def test_published_records_are_of_tasks_and_methods_that_ship_and_older_ones_are_named():
    records, _ = read_records(ROOT / "leaderboards")
    assert records
    for record in records:
        assert record.task.version == registry().task(record.task.name).meta.version
        assert record.method.version <= registry().method(record.method.name).version
        assert record.provenance.git_dirty is False
        assert record.status == "complete" or record.task.scale
    behind = {r.task.name for r in records if r.method.version < registry().method(r.method.name).version}
    told = re.search(r"^Made with earlier versions of their methods: (.*)\.$", RECORDS.read_text(), re.MULTILINE)
    assert set(re.findall(r"`([^`]+)`", told[1] if told else "")) == behind


def test_the_published_records_name_commands_that_there_are():
    for command in {record.command for record in read_records(ROOT / "leaderboards")[0]}:
        verb, *arguments = shlex.split(command)[1:]
        typer.main.get_command(command_line(verb)).commands[verb].make_context(verb, arguments)  # refuses what it lacks


COMMANDS = re.findall(
    r"^attrbench (?:list|run|tune|attribute|status|leaderboard|compare|show|score|reproduce|train|doctor|cache)\b.*",
    README.read_text(),
    flags=re.MULTILINE,
)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_readme_are_valid(line):
    words = shlex.split(line, comments=True)
    for flag, kind in (("-m", "method"), ("-t", "task")):
        for text in (value for name, value in itertools.pairwise(words) if name == flag and value != "all"):
            for spec in parse_spec(text):
                if is_file(spec.name):
                    continue
                owner = registry().method(spec.name) if kind == "method" else registry().task(spec.name)
                build_options(kind, spec, owner.Options)


def test_the_method_of_the_readme_is_complete(tmp_path, monkeypatch):
    """It registers, fits and ranks."""
    import types

    import numpy as np

    from attrbench.contracts.feature import QueryFeatures, TrainFeatures
    from attrbench.contracts.options import Options
    from attrbench.features.images import Images

    snippets = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    (code,) = (snippet for snippet in snippets if "register_methods" in snippet)
    module = types.ModuleType("readme_plugin")
    monkeypatch.setitem(sys.modules, "readme_plugin", module)
    exec(code, module.__dict__)
    found = Registry()
    plugin = Plugin("readme", "readme", "1")
    found.load(plugin, lambda: module)
    assert plugin.error is None
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) * 50
    scorer = found.method("brightness")(Options()).fit(TrainFeatures(4, {Images(): images}), None)
    ranking = scorer.top(QueryFeatures(np.arange(1), {Images(): images[2:3]}), 4)
    assert ranking.ids[0].tolist() == [2, 1, 3, 0]
    assert scorer.size().rows == 32
