"""The HTML report in headless Chromium: from a file, by keyboard, at two widths, light and dark, on hostile texts."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attrbench.contracts.record import read_records
from attrbench.reports.contact_sheet import Heading
from attrbench.reports.html.attribution import attribution_page
from attrbench.reports.ranking import build_tables
from tests.reports.accessibility import findings
from tests.reports.browser import MISSING, browser
from tests.reports.html_material import HOSTILE, answers, items, make, records, thumbnails

pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]
LEADERBOARD = Path(__file__).parent.parent.parent / "leaderboards" / "ddpm-mnist-mini"
ROWS = "[...document.querySelectorAll('table.board tbody tr')]"
ORDER = f"return {ROWS}.filter(r => !r.hidden).map(r => r.cells[1].dataset.v)"


@pytest.fixture(scope="module")
def window():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages by name: a published board without pictures, a small one with, a hostile one, an attribution."""
    folder = tmp_path_factory.mktemp("pages")
    published, _ = read_records(LEADERBOARD)
    given = records()
    evil = [
        run.model_copy(
            update={"method": run.method.model_copy(update={"label": text}), "identity": text, "command": text}
        )
        for run, text in zip(given, HOSTILE, strict=False)
    ]
    every = " ".join(text[:50] for text in HOSTILE)
    picture = io.BytesIO()
    Image.fromarray(np.zeros((40, 900), np.uint8)).save(picture, "PNG")
    shown = answers(items(2, HOSTILE), items(9, HOSTILE), Heading(HOSTILE[0]), "m", (picture.getvalue(), HOSTILE[2]))
    made = {
        "published": make(published),
        "small": make(given, thumbnails(given)),
        "hostile": make(evil, thumbnails(evil, caption=every, group=HOSTILE[1])),
        "attribution": attribution_page(shown).decode(),
    }
    for name, html in made.items():
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["published", "small", "hostile", "attribution"])
def test_a_page_asks_for_nothing_says_nothing_on_the_console_and_is_accessible(window, pages, name, width, dark):
    window.open(pages[name], width, dark=dark)
    assert window.requests() == [pages[name].as_uri()]
    assert window.messages() == []
    assert findings(window) == []
    window.run("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert findings(window) == []


def test_the_check_of_accessibility_finds_what_is_wrong(window, tmp_path):
    (tmp_path / "bad.html").write_text(
        "<!DOCTYPE html><title></title><h3>x</h3><p style='color:#999;background:#fff'>pale</p><img src='data:,'>"
        "<input><a href='#nowhere'></a><table><tbody><tr><th>a</th></tr></tbody></table><i id=a></i><i id=a></i>"
        "<div style='overflow-x:auto;width:50px'><div style='width:900px'>wide</div></div><svg></svg>"
    )
    window.open(tmp_path / "bad.html")
    found = "\n".join(findings(window))
    window.messages()
    for rule in (
        "no language",
        "no title",
        "not one main",
        "heading level skipped",
        "contrast 2.85",
        "no alternative text",
        "no name: <input>",
        "link leads nowhere",
        "table without caption",
        "heading cell without scope",
        "id twice: a",
        "scrolls, but not by keyboard",
        "svg without role",
    ):
        assert rule in found


def tab_to(window, script):
    """Press the tabulator until the focused element fits a condition on `e`; return how often it was pressed."""
    for presses in range(1, 80):
        window.press("Tab")
        if window.run(f"const e = document.activeElement; return {script}"):
            return presses
    raise AssertionError(f"the tabulator does not lead to {script}")


def test_the_board_is_sorted_by_keyboard_and_says_how(window, pages):
    window.open(pages["published"])
    before = window.run(ORDER)
    assert len(before) == 60
    tab_to(window, "e.textContent == 'storage'")
    window.press("Enter")
    sizes = f"return {ROWS}.map(r => Number(r.cells[5].dataset.v))"
    ascending = window.run(sizes)
    assert ascending == sorted(ascending) and window.run(ORDER) != before
    assert window.run("return document.activeElement.parentElement.getAttribute('aria-sort')") == "ascending"
    window.press("Space")
    assert window.run(sizes) == sorted(ascending, reverse=True)
    assert window.run(
        "return [...document.querySelectorAll('th[aria-sort]')].map(h => h.ariaSort).filter(s => s != 'none')"
    ) == ["descending"]
    assert window.run("return document.querySelector('tfoot th').textContent") == "random ranking (analytic)"


def test_the_board_is_filtered_by_keyboard_and_says_how_many_are_left(window, pages):
    window.open(pages["published"])
    tab_to(window, "e.type == 'search'")
    window.type("trak damping")
    left = window.run(ORDER)
    assert left and all("trak" in label and "damping" in label for label in left)
    assert window.run("return document.querySelector('form [role=status]').textContent") == f"{len(left)} of 60 runs"
    window.run("document.querySelector('form input').value = ''")
    window.press("Tab", "Space")
    (table,) = build_tables(read_records(LEADERBOARD)[0])
    assert window.run(ORDER) == [row.record.method.label for row in table.ranked if row.pareto]


def test_the_gallery_is_walked_through_by_keyboard_and_reads_out_what_it_shows(window, pages):
    window.open(pages["small"])
    given = records()
    tab_to(window, "e.tagName == 'SELECT'")
    window.press("ArrowDown")
    assert window.run("return document.querySelector('.query img').alt") == "query 1"
    tab_to(window, "e.matches('.picture')")
    about = "return document.querySelector('.about').textContent"
    first = given[0].ranking[1]
    assert window.run(about).startswith(f"1 good: rank 1, score 1, item {first[0]}, ")
    window.press("ArrowRight", "ArrowRight")
    assert f"rank 3, score 0.8, item {first[2]}, " in window.run(about)
    right = "group of the query" if first[2] % 2 == 1 else "another group"
    assert right in window.run(about) and f"a picture {first[2]}" in window.run(about)
    assert window.run("return document.activeElement.className").endswith("right" if right[0] == "g" else "wrong")
    window.press("ArrowDown")
    assert f"fair: rank 3, item {given[1].ranking[1][2]}, " in window.run(about)
    window.press("ArrowUp", "ArrowLeft", "ArrowLeft", "ArrowLeft")
    assert "good: rank 1, " in window.run(about)  # and no further
    assert window.run("return document.querySelectorAll('.picture[tabindex=\"0\"]').length") == 1


def test_the_gallery_frames_right_and_wrong_items_by_more_than_color(window, pages):
    window.open(pages["small"])
    shown = window.run(
        "return [...document.querySelectorAll('.answers section')].map(s => [s.querySelector('small').textContent,"
        " [...s.querySelectorAll('.picture')].map(p => [p.classList[1], p.children[1].textContent.trim(),"
        " getComputedStyle(p.querySelector('img')).borderTopStyle])])"
    )
    for run, (count, pictures) in zip(records(), shown, strict=False):
        expected = [item % 2 == 0 for item in run.ranking[0][:10]]  # the first query's group is 0
        assert count == f"{sum(expected)} of 10"
        for (verdict, mark, border), is_right in zip(pictures, expected, strict=True):
            assert (verdict, mark[-1], border) == (("right", "✓", "solid") if is_right else ("wrong", "✗", "dashed"))


def test_the_page_of_an_attribution_tells_near_duplicates_and_who_else_shows_an_item(window, pages):
    window.open(pages["attribution"])
    tab_to(window, "e.matches('.picture')")
    about = "return document.querySelector('.about').textContent"
    assert "nearly the same: item 2 at rank 3" in window.run(about) and "Also shown: by other." in window.run(about)
    window.press("ArrowRight")
    assert "rank 2, score 0.5, item 1, " in window.run(about) and "Shown nowhere else" in window.run(about)
    words = "return [...document.querySelectorAll('.answers .words')].map(e => e.textContent)"
    assert len(window.run(words)) == 5 and all(text in window.run(words)[0] for text in (HOSTILE[3],))
    assert window.run("return document.querySelector('.answers .picture').children[1].textContent") == "1 ✗ ×2"
    window.run("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert window.run("return document.querySelectorAll('[onerror], [onload], main script:not([type])').length") == 0


def test_previous_next_and_the_filter_of_methods_work(window, pages):
    window.open(pages["small"])
    press = "document.querySelector('.{}').click(); return document.querySelector('.query img').alt"
    assert window.run(press.format("next")) == "query 1"
    assert window.run(press.format("previous")) == "query 0"
    assert window.run(press.format("previous")) == "query 0"
    tab_to(window, "e.type == 'search' && e.closest('.gallery')")
    window.type("fair")
    assert window.run("return [...document.querySelectorAll('.answers h4')].map(h => h.firstChild.data)") == ["2 fair"]


def test_pictures_are_decoded_and_hostile_texts_are_shown_as_they_are(window, pages):
    window.open(pages["hostile"])
    window.run("document.querySelector('.gallery').scrollIntoView()")
    assert window.run("return typeof window.alerted") == "undefined"
    assert window.run("return document.querySelectorAll('script').length") == 2
    assert window.run("return document.querySelectorAll('.answers [onerror], .answers svg, body > img').length") == 0
    decoded = "i => {i.loading = 'eager'; return i.decode().then(() => i.naturalWidth)}"
    images = "[...document.querySelectorAll('.answers img')].slice(0, 20)"
    assert set(window.run(f"return Promise.all({images}.map({decoded}))")) == {8}
    caption = window.run("return document.querySelector('.answers img').alt")
    assert "<script>alert(1)</script>" in caption and "=cmd()|' /C calc'!A0" in caption and "\x1b" not in caption
    assert window.messages() == []


def test_a_link_to_a_runs_provenance_opens_it(window, pages):
    window.open(pages["published"])
    tab_to(window, "e.textContent == 'pixel'")
    window.press("Enter")
    run = "const e = document.querySelector(location.hash); return "
    assert window.run(f"{run}[e.closest('details').open, e.checkVisibility()]") == [True, True]
    assert "pixel" in window.run(f"{run}e.textContent")


def test_a_printed_page_holds_every_detail_and_no_control(window, pages):
    window.open(pages["published"])
    window.cdp("Emulation.setEmulatedMedia", media="print")
    window.run("window.dispatchEvent(new Event('beforeprint'))")
    assert window.run("return [...document.querySelectorAll('details')].every(item => item.open)")
    assert window.run("return document.querySelector('.controls').checkVisibility()") is False
    assert window.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    window.cdp("Emulation.setEmulatedMedia", media="")
