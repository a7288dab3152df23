"""The pages that are made of the published records are in step with them.

`ATTRBENCH_WRITE_DOCS=1 pytest tests/test_record_pages.py` writes them.
"""

import re
from pathlib import Path

import pytest

from attrbench.contracts.marks import Mark, read_marks
from attrbench.contracts.record import read_records
from attrbench.plugins.registry import registry
from attrbench.reports.ranking import build_tables
from docs._site.board_pages import board_pages, names_of
from docs._site.damping_tables import TASKS as DAMPING_TASKS
from docs._site.damping_tables import damping_tables
from docs._site.method_tables import FAMILIES, counted, default_rows, family, first_of, parts
from docs._site.retrained_tables import score_rows, scored_boards
from tests.reports.html_material import HOSTILE
from tests.reports.test_leaderboard import noisy, record
from tests.test_readme import WRITE, check

ROOT = Path(__file__).parent.parent
BOARDS = ROOT / "docs" / "boards"
METHODS = ROOT / "docs" / "methods"
MARKS = ROOT / "leaderboards" / "reproduced.json"
PARTS = {
    ROOT / "docs" / "how-to" / "choose-method.md": ("best", "counted", "defaults", "criteria", "agreement", "costs"),
    ROOT / "docs" / "explanation" / "reading-numbers.md": ("example",),
    ROOT / "docs" / "explanation" / "what-retraining-says.md": ("digits", "noise"),
    ROOT / "docs" / "reference" / "tasks.md": ("exemplars",),
    ROOT / "README.md": ("scores",),
}


@pytest.fixture(scope="module")
def published():
    records, problems = read_records(ROOT / "leaderboards")
    assert records and not problems
    return records


def test_the_pages_of_the_boards_are_those_of_the_records_and_there_are_no_others(published):
    pages = board_pages(published, read_marks(MARKS), registry())
    if WRITE:
        BOARDS.mkdir(exist_ok=True)
        for old in BOARDS.glob("*.md"):
            old.unlink()
    assert WRITE or {path.name for path in BOARDS.glob("*.md")} == set(pages)
    for name, text in pages.items():
        check(BOARDS / name, text)


def test_parts_of_other_pages_are_those_of_the_records(published):
    made = parts(published, registry())
    assert sorted(made) == sorted(name for names in PARTS.values() for name in names)
    for page, names in PARTS.items():
        check_marked(page, {name: made[name] for name in names})


def test_the_tables_of_damping_are_those_of_the_records(published):
    tuned = {record.method.name for record in published if record.tuned and record.task.name in DAMPING_TASKS}
    assert tuned
    for method in tuned:
        check_marked(METHODS / f"{method}.md", {"damping": damping_tables(published, method)})


def check_marked(page, texts):
    """Check that the marked parts of a page are these, or write them."""
    text = page.read_text(encoding="utf-8")
    for name, part in texts.items():
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- /{name} -->") == 1
        marked = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(marked, lambda m, part=part: f"{m[1]}{part}{m[2]}", text, flags=re.DOTALL)
    check(page, text)


def test_every_mark_is_of_a_published_record(published):
    known = {each.identity for each in published}
    assert [mark.method for mark in read_marks(MARKS) if mark.identity not in known] == []


def test_every_record_is_on_the_page_of_its_task(published):
    pages = board_pages(published, [], registry())
    assert set(pages) == {"index.md", *(f"{each.task.name}.md" for each in published)}
    for each in published:
        assert each.method.name in pages[f"{each.task.name}.md"]


def made(label, mean, task="ddpm-mnist-mini", seed=1, **method):
    """A record of a method on a task, with a hash for identity."""
    run = record(label, noisy(mean, seed, 20))
    told = run.method.model_copy(update={"name": label.partition(":")[0], "options_given": {}} | method)
    info = run.task.model_copy(update={"name": task, "fingerprint": task})
    return run.model_copy(update={"method": told, "task": info, "identity": f"{seed:064x}"})


def test_a_mark_is_shown_with_the_record_that_it_is_of_and_counted():
    runs = [made("pixel", 0.8, seed=1), made("dmin", 0.5, seed=2)]
    mark = Mark(
        identity=runs[1].identity, task="t", method="dmin", metric="d@1", value=0.5, equal_rankings=20, queries=20,
        date="2026-11-29", attrbench="0.2.0", revision="abcdef0123", hardware="another machine",
    )  # fmt: skip
    pages = board_pages(runs, [mark], registry())
    rows = {line.split(" | ")[1]: line for line in pages["ddpm-mnist-mini.md"].splitlines() if "| " in line}
    assert "✓ 2026-11-29, abcdef0, another machine" in rows["dmin"] and "✓ 2026" not in rows["pixel"]
    assert "| 2 | 1 | pixel |" in pages["index.md"]
    assert "run again" not in board_pages(runs, [], registry())["ddpm-mnist-mini.md"]


def test_a_method_that_is_not_installed_is_shown_with_its_package():
    runs = [made("unheard", 0.9, distribution="attrbench-unheard 0.1.0"), made("pixel", 0.5, seed=2)]
    page = board_pages(runs, [], registry())["ddpm-mnist-mini.md"]
    assert "| 1 | unheard |" in page and "unheard is of attrbench-unheard 0.1.0." in page
    assert "[pixel](../methods/pixel.md)" in page and "[unheard]" not in page


def test_labels_from_records_are_text_on_the_pages():
    runs = [made(text, 0.5, seed=seed, distribution=text) for seed, text in enumerate(HOSTILE, start=1)]
    pages = board_pages([*runs, made("pixel", 0.9, seed=99)], [], registry())
    for text in pages.values():
        assert not re.search(r"(?<!&lt;)<(script|img|svg)", text) and "\x1b" not in text
        tables = [line for line in text.splitlines() if line.startswith("| ") and "pixel" not in line]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in tables}) <= 2


def test_names_that_can_be_no_page_have_none():
    names = ["a-task", "index", "../up", "Mine", "b.c"]
    assert names_of(made("pixel", 0.5, task=name) for name in names) == ["a-task", "b.c"]


def test_methods_fall_into_families_and_controls_into_none():
    names = [
        name for name in registry().names("method") if registry().provider("method", name).distribution == "attrbench"
    ]
    found = {name: family(name, registry()) for name in names}
    controls = {"caption", "other-seed", "random", "shuffled", "untrained"}
    assert {name for name, kind in found.items() if kind not in FAMILIES} == controls
    assert found["pixel"] == "similarity" and found["das"] == "kernel" and family("unheard", registry()) == "other"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"pixel": 0.9, "dmin": 0.5, "random": 0.1}, "The best comparison of pictures is ahead"),
        ({"pixel": 0.5, "dmin": 0.9, "untrained": 0.95}, "The best gradient method is ahead"),
        ({"pixel": 0.5, "dmin": 0.5}, "The two share a rank"),
    ],
)
def test_what_comes_first_is_told_by_ranks(values, sentence):
    runs = [made(name, mean, seed=1 if mean == 0.5 else 2) for name, mean in values.items()]
    (table,) = build_tables(runs)
    lines = counted([table], registry()).splitlines()
    assert next(line for line in lines if "ddpm-mnist-mini" in line).startswith(f"- {sentence}")
    assert sum("nowhere" in line for line in lines) == 2
    assert first_of(table, registry(), gradients=True).record.method.name == "dmin"


def test_the_table_of_defaults_has_no_run_with_other_options():
    runs = [
        made("dmin:normalize=false", 0.9, options_given={"normalize": "false"}, options={"normalize": False}),
        made("dmin:v=4096", 0.4, seed=2, options_given={"v": "4096"}, options={"v": 4096}),
    ]
    rows = default_rows(build_tables(runs), registry())
    value = build_tables(runs)[0].ranked[1].record.metrics[0].value
    assert f"[dmin](../methods/dmin.md) | {value:.3f} |" in rows


def with_score(run, **values):
    """A record with its first metric as a linear datamodeling score, too, that ranks its task."""
    score = run.metrics[0].model_copy(update={"metric": "lds", "k": None, "criterion": True} | values)
    return run.model_copy(update={"metrics": [score, *run.metrics]})


def scored(name, value, ceiling, task, seed):
    """A record of a method with a linear datamodeling score."""
    return with_score(made(name, 0.5, task, seed), value=value, ceiling=ceiling)


def test_scores_of_several_boards_are_in_the_order_of_their_mean_share_of_the_ceilings():
    values = {"pixel": (0.1, 0.7, 0.1), "dmin": (0.4, 0.1, 0.4), "ssim": (0.9, 0.9, None)}
    ceilings = {"a": 0.5, "b": 1.0, "c": 0.5}
    runs = [
        scored(name, value, ceilings[task], task, 10 * row + column)
        for row, (name, found) in enumerate(values.items())
        for column, (task, value) in enumerate(zip(ceilings, found, strict=True))
        if value is not None
    ]
    tables = build_tables([*runs, made("pixel", 0.5, "without-score")])
    rows = score_rows(scored_boards(tables), registry(), "boards").splitlines()
    assert rows[0] == "| lds | paper's noise | [a](boards/a.md) | [b](boards/b.md) | [c](boards/c.md) |"
    assert rows[2:4] == ["| dmin |  | 0.400 | 0.100 | 0.400 |", "| pixel |  | 0.100 | 0.700 | 0.100 |"]
    assert rows[4:] == ["| *ceiling* | | 0.500 | 1.000 | 0.500 |"]  # ssim is on two boards alone


def test_a_method_stands_once_with_both_policies_of_noise_and_the_better_is_bold_where_they_are_told_apart():
    boards = ("a", "b", "c")
    runs = []
    for row, (name, noise, mean) in enumerate(
        [("trak", "per-item", 0.2), ("trak:noise=shared", "shared", 0.8), ("dmin", "shared", 0.7), ("pixel", None, 0.5)]
    ):
        given = {"noise": noise} if ":" in name else {}
        for column, task in enumerate(boards):
            run = made(name, mean, task, 10 * row + column, options_given=given, options={"noise": noise})
            runs.append(with_score(run, ceiling=1.0))
    rows = score_rows(scored_boards(build_tables(runs)), registry(), "boards").splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows[:3]] == [["| trak", "per-item"], ["| dmin", ""], ["| pixel", ""]]
    assert all(re.fullmatch(r"0\.\d{3} / \*\*0\.\d{3}\*\*", cell) for cell in rows[0].strip("| ").split(" | ")[2:])
    assert all(re.fullmatch(r"0\.\d{3}", cell) for cell in rows[1].strip("| ").split(" | ")[2:])
