"""Contact sheets: what is on which page, how text is cut, and in which fonts it is drawn."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from attrbench.contracts.ranking import Ranking
from attrbench.contracts.task import Items
from attrbench.reports import fonts, text_lines
from attrbench.reports.contact_sheet import COLUMNS, ROWS, TILE, ContactSheet, Heading, Strip
from attrbench.reports.text_lines import clean, draw, shortened, width, wrapped

ARABIC, HEBREW, CHINESE, EMOJI = "زهرة التوليب", "הצבעוני האדום", "郁金香花园", "🌷"


def items(count, caption=""):
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    names = [f"{index:04d}.png" for index in range(count)]
    return Items(images, [""] * count, [caption] * count, "f", names=names)


def sheet(queries, found, k, **options):
    ids = np.where(np.arange(k) < np.array(found)[:, None], np.arange(k), -1)
    ranking = Ranking(ids, np.zeros(ids.shape, np.float32))
    return ContactSheet(
        items(queries), items(k), [Strip(ranking)], Heading("Method a, task b", "what it is"), **options
    )


@pytest.mark.parametrize(("queries", "k"), [(1, 1), (3, 6), (25, 10), (2, 275), (1, ROWS * COLUMNS)])
def test_pages_hold_every_rank_of_every_query_once_and_none_is_too_long(queries, k):
    drawn = sheet(queries, [k] * queries, k)
    ranks = [(block.query, rank) for page in drawn._pages for block in page for rank in block.ranks]
    assert ranks == [(query, rank) for query in range(queries) for rank in range(k)]
    assert all(sum(block.rows for block in page) <= ROWS for page in drawn._pages)
    assert len(sheet(queries, [k] * queries, k, rows=None)) == 1


def test_a_query_that_fits_on_a_page_is_never_cut():
    drawn = sheet(9, [30] * 9, 30)
    assert all([block.query for block in page] == sorted({block.query for block in page}) for page in drawn._pages)
    assert sum(len(page) for page in drawn._pages) == 9


def test_a_query_without_a_ranking_is_drawn_alone():
    page = np.asarray(sheet(1, [0], 5)[0])
    assert (page[120:, TILE + 40 :] == 255).all()
    assert page[60:200, :TILE].std() > 10


def test_the_heading_says_method_task_summary_warnings_and_page():
    drawn = sheet(30, [5] * 30, 5)
    lines = [line for line, _ in drawn._heading(1, 600)]
    assert lines[0].startswith("Method a, task b, page 2 of ") and lines[1] == "what it is"
    warned = ContactSheet(drawn.queries, drawn.train, drawn.strips, Heading("a", warnings=["beware " * 200]))
    texts = [line for line, _ in warned._heading(0, 600)]
    assert texts[-2].startswith("Warning: beware") and texts[-1].endswith("…")
    assert all(width(line) <= 600 for line in texts)


@pytest.mark.parametrize(
    "text", ["a " * 2500, "x" * 5000, CHINESE * 1000, ARABIC * 400, EMOJI * 3000, "word", "", "\u200d" * 5000]
)
def test_captions_of_any_length_fit_their_lines(text):
    lines = wrapped(text, TILE, 2)
    assert len(lines) <= 2
    assert all(width(line) <= TILE for line in lines)
    assert width(shortened(text, TILE)) <= TILE
    if len(text) > 100 and "\u200d" not in text:
        assert lines[-1].endswith("…") and len(lines) == 2


def test_wrapping_loses_no_word_where_there_is_room():
    assert " ".join(wrapped("a red tulip in a garden", TILE, 4)) == "a red tulip in a garden"
    assert "".join(wrapped(CHINESE, 30, 9)) == CHINESE


def test_the_end_of_a_file_name_stays():
    name = shortened("a/very/long/folder/of/many/photographs/flower_0012.png", TILE)
    assert name.endswith("0012.png") and "…" in name


def test_directions_and_controls_are_not_drawn():
    assert clean("a\u202eb\x1b[2J\nc\ud800") == "ab[2J c"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with the fonts in one folder, and a Pillow whose own font has the letter a alone."""

    class OnlyA(fonts.Face):
        def has(self, character):
            return character in "a "

    def forget():
        for cached in (fonts.face_of, fonts.font_files, fonts._faces_for, fonts._open, width, wrapped):
            cached.cache_clear()

    own = OnlyA(fonts.own_face().font)
    monkeypatch.setattr(fonts, "own_face", lambda: own)
    monkeypatch.setattr(text_lines, "own_face", lambda: own)
    monkeypatch.setattr(fonts, "_met", {})
    monkeypatch.setattr(fonts, "_font_folders", lambda: [tmp_path])
    forget()
    yield tmp_path
    forget()


def test_a_script_without_a_font_is_named_and_drawn_all_the_same(machine):
    assert fonts.scripts_without_font(["aab"]) == {"Latin": "aab"}
    assert set(fonts.scripts_without_font([ARABIC, HEBREW, CHINESE, EMOJI])) == {"Arabic", "Hebrew", "CJK", "emoji"}
    picture = Image.new("RGB", (200, 20), "white")
    draw(picture, (0, 0), CHINESE)
    assert np.asarray(picture).min() < 128


def test_a_font_in_the_folders_of_fonts_is_found(machine):
    (machine / "broken.ttf").write_bytes(b"no font")
    (machine / "below").mkdir()
    (machine / "below" / "latin.ttf").write_bytes(ImageFont.load_default(size=11).path.getvalue())
    assert fonts.scripts_without_font(["aab"]) == {}
    assert [(face is fonts.own_face(), part) for face, part in text_lines._parts("bb")] == [(False, "bb")]
    assert fonts.scripts_without_font([CHINESE]) == {"CJK": CHINESE}


@pytest.mark.parametrize("text", [ARABIC, HEBREW, CHINESE, EMOJI])
def test_scripts_that_this_machine_has_are_drawn_each_character_apart(text):
    if fonts.scripts_without_font([text]):
        pytest.skip("no font of this machine has them")
    marks = set()
    for character in dict.fromkeys(text.replace(" ", "")):
        picture = Image.new("RGB", (40, 30), "white")
        draw(picture, (5, 5), character)
        marks.add(picture.tobytes())
    assert len(marks) == len(set(text.replace(" ", "")))


def test_strips_are_drawn_one_below_the_other_and_near_duplicates_once():
    plain = sheet(2, [6, 6], 6)
    ranking = plain.strips[0].ranking
    grouped = Strip(ranking, "by b", [{0: [1, 2], 4: []}, {0: []}])
    drawn = ContactSheet(plain.queries, plain.train, [Strip(ranking, "by a"), grouped], plain.heading)
    blocks = [(block.query, block.strip.title, list(block.ranks)) for page in drawn._pages for block in page]
    six = list(range(6))
    assert blocks == [(0, "by a", six), (0, "by b", [0, 4]), (1, "by a", six), (1, "by b", [0])]
    assert grouped.rank_line(0, 0, "g") == "1. (x3) 0, group g" and grouped.rank_line(1, 0, "") == "1. 0"
    texts = " ".join(line for line, _ in drawn._heading(0, 800))
    assert "within one query and method only" in texts and "(x2): stands for two" in texts
    assert "(x2)" not in " ".join(line for line, _ in plain._heading(0, 800))
