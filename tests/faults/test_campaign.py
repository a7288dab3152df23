"""The fault campaign: a few trials of each part hold, a trial that fails is told, and the docs show its table."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from tests.campaign.__main__ import LINE, table, teller
from tests.campaign.children import Done
from tests.campaign.option_strings import means
from tests.campaign.parts import PARTS
from tests.campaign.trials import Part, Row, run_part

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "fault-campaign.md"


@pytest.mark.slow
def test_a_few_trials_of_each_part_hold(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaign", "--trials", "2", "--json", tmp_path / "table.json"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "table.json").read_bytes())
    assert [(row["part"], row["tried"], row["held"], row["failed"]) for row in found["parts"]] == [
        (name, 2, 2, 0) for name in PARTS
    ]
    assert [line.split()[:4] for line in done.stdout.splitlines()[1:]] == [[name, "2", "2", "0"] for name in PARTS]


def test_trials_that_fail_or_raise_are_counted_and_told_with_the_command_that_repeats_them(capsys):
    def odd(bench, trial, chance):
        if trial == 3:
            raise ValueError("by chance")
        return f"drew {chance.random():.3f}" if trial == 1 else None

    part = Part("options", 5, "odd ones", odd)
    row = run_part(None, part, 7, range(5), 2, teller(part, 7))
    assert (row.tried, row.held, row.failed) == (5, 3, 2)
    said = capsys.readouterr().out
    assert "python -m tests.campaign --part options --trial 3 --seed 7\n        ValueError: by chance" in said
    (drawn,) = re.findall(r"--trial 1 --seed 7\n        (drew .*)", said)
    run_part(None, part, 7, [1], 1, teller(part, 7))
    assert drawn in capsys.readouterr().out


def test_trials_that_a_process_took_with_it_have_failed():
    row = run_part(None, Part("x", 4, "", lambda bench, trial, chance: os._exit(1)), 0, range(4), 2, print)
    assert (row.tried, row.held, row.failed) == (4, 0, 4)


@pytest.mark.parametrize(
    ("done", "fine"),
    [
        (Done(0, "", ""), True),
        (Done(1, "", "attrbench: error: no room\n"), True),
        (Done(1, "", "attrbench: error: KeyError: 'a' (run again with --debug for the traceback)\n"), False),
        (Done(1, "", "Traceback (most recent call last):\nattrbench: error: x\n"), False),
        (Done(1, "", ""), False),
        (Done(2, "", "attrbench: error: a\nattrbench: error: b\n"), False),
        (Done(-11, "", ""), False),
    ],
)
def test_an_answer_is_fine_with_exit_code_0_or_one_line_that_no_bug_wrote(done, fine):
    assert (done.fault(0, 1, 2) is None) == fine


@pytest.mark.parametrize(
    ("text", "value", "same"),
    [
        ("3", 3, True),
        ("3.0", 3, True),
        ("18446744073709551616", 0, False),
        ("1e-3", 0.001, True),
        ("none", None, True),
        ("0", None, False),
        ("true", True, True),
        ("false", True, False),
        ("hnsw", "exact", False),
        (str(Decimal(2) ** 70), 2**70, True),
    ],
)
def test_an_option_that_became_another_value_is_told(text, value, same):
    assert means(text, value) == same


def test_the_docs_show_the_table_as_the_campaign_prints_it():
    (shown,) = re.findall(r"^```text\n(part .*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    rows = [line.split(maxsplit=5) for line in shown.splitlines()[1:]]
    assert [row[0] for row in rows] == list(PARTS)
    printed = table([Row(row[0], int(row[1]), int(row[2]), int(row[3]), float(row[4])) for row in rows])
    assert shown == printed
    assert all(int(tried) == int(held) + int(failed) > 0 for _, tried, held, failed, *_ in rows)
    assert shown.splitlines()[0] == LINE.format("part", "tried", "held", "failed", "seconds", "what is tried").rstrip(
        "\n"
    )
