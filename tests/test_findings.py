"""Numbers in the sentences of README and docs are those of the published records, and claims hold.

`ATTRBENCH_WRITE_DOCS=1 pytest tests/test_findings.py` writes the numbers; a claim that fails needs another sentence.
"""

from pathlib import Path

import pytest

from attrbench.contracts.record import read_records
from attrbench.plugins.registry import registry
from attrbench.reports.ranking import build_tables
from docs._site.findings import Boards, Findings, read_findings, rewritten
from tests.test_readme import check
from tests.test_record_pages import made

ROOT = Path(__file__).parent.parent
FOUND = read_findings()


@pytest.fixture(scope="module")
def boards():
    records, problems = read_records(ROOT / "leaderboards")
    assert records and not problems
    return Boards(build_tables(records), registry())


@pytest.mark.parametrize("page", FOUND)
def test_numbers_in_sentences_are_those_of_the_records(page, boards):
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    for piece in FOUND[page].numbers:
        text = rewritten(text, piece, boards)
    check(path, text)


@pytest.mark.parametrize("page", FOUND)
def test_what_sentences_say_of_two_runs_holds(page, boards):
    assert [claim for claim in FOUND[page].claims if not boards.holds(claim)] == []


@pytest.fixture
def toys():
    """A board of two runs that are far apart, and two that are not."""
    runs = [made("pixel", 0.9, seed=1), made("ssim", 0.9, seed=2), made("dmin", 0.2, seed=3)]
    return Boards(build_tables(runs), registry()), {run.method.name: run.metrics[0] for run in runs}


def test_a_value_an_interval_a_difference_and_a_ratio_are_those_of_the_records(toys):
    boards, results = toys
    pixel, dmin = results["pixel"], results["dmin"]
    name = pixel.name
    assert boards.text(f"ddpm-mnist pixel {name}") == f"{pixel.value:.3f}"
    assert boards.text(f"ddpm pixel {name} interval") == f"{pixel.value:.3f} [{pixel.low:.3f}, {pixel.high:.3f}]"
    assert boards.text(f"ddpm pixel - dmin {name}") == f"{pixel.value - dmin.value:.3f}"
    assert boards.text(f"ddpm pixel - dmin {name} interval").startswith(f"{pixel.value - dmin.value:.3f} [")
    assert boards.text(f"ddpm pixel / dmin {name}") == f"{pixel.value / dmin.value:.1f}"


def test_claims_are_of_runs_that_are_told_apart_or_not(toys):
    boards, results = toys
    name = results["pixel"].name
    assert boards.holds(f"ddpm: pixel > dmin {name}") and not boards.holds(f"ddpm: dmin > pixel {name}")
    assert boards.holds(f"ddpm: pixel = ssim {name}") and not boards.holds(f"ddpm: pixel = dmin {name}")
    assert boards.holds(f"ddpm: pixel > 0 {name}") and not boards.holds(f"ddpm: pixel = 0 {name}")


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("sd9 pixel", "sd9: 0 found"),
        ("ddpm nothing", "nothing is not on the board of ddpm-mnist-mini"),
        ("ddpm pixel lds", "pixel has no lds"),
        ("ddpm lds ~ group-top1", "too few runs"),
        ("ddpm fact lds_subsets", "0 found"),
    ],
)
def test_what_is_not_there_is_named(toys, field, line):
    with pytest.raises(ValueError, match=line):
        toys[0].text(field)


@pytest.mark.parametrize("claim", ["ddpm: pixel < dmin d@1", "ddpm: pixel < 0 d@1", "ddpm: pixel"])
def test_what_is_no_claim_is_refused(toys, claim):
    with pytest.raises(ValueError, match="no claim"):
        toys[0].holds(claim)


def test_only_the_numbers_of_a_piece_change_wherever_its_lines_end(toys):
    boards, results = toys
    pixel, dmin = results["pixel"], results["dmin"]
    page = "Before 0.111, `pixel` has 0.222\n  [0.1, 0.3] and dmin\n  -0.333 of 0.444."
    with pytest.raises(ValueError, match="0 times"):
        rewritten(page, f"`ssim` has {{ddpm ssim {pixel.name}}}", boards)
    piece = f"`pixel` has {{ddpm pixel {pixel.name}}} [0.1, 0.3] and dmin {{ddpm dmin {pixel.name}}}"
    with pytest.raises(ValueError, match="2 times"):
        rewritten(page + page, piece, boards)
    expected = page.replace("0.222", f"{pixel.value:.3f}").replace("-0.333", f"{dmin.value:.3f}")
    assert rewritten(page, piece, boards) == expected


def test_every_page_with_findings_has_some():
    assert all(isinstance(told, Findings) and (told.numbers or told.claims) for told in FOUND.values())
