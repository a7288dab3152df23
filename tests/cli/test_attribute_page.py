"""`attrbench attribute --html` and `--evidence`: a page and a map, with the rules of files that the user names."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import attrbench as library
from attrbench.errors import UsageError
from tests.cli.conftest import OWN_ITEMS
from tests.data.making import metadata_csv, picture
from tests.reports.html_material import HOSTILE

DMIN = "dmin:v=64,timesteps=2"
EVERY = "grad-dot:timesteps=2"


@pytest.fixture
def ask(attrbench, tmp_path, own):
    def run(*arguments, methods=("pixel",)):
        flags = [part for method in methods for part in ("-m", method)]
        return attrbench("attribute", *flags, "-t", own, "--out", tmp_path / "out", "--device", "cpu", *arguments)

    return run


class Places(HTMLParser):
    """Every address in a page's attributes and styles, and the event handlers."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.handlers = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]


def test_the_page_has_pictures_files_captions_fingerprints_and_agreement_and_asks_for_nothing(ask, tmp_path):
    query = tmp_path / "images" / "03.png"
    done = ask("--image", query, "-k", 4, "--lowest", 2, "--html", tmp_path / "page.html", methods=["pixel", DMIN])
    assert done.code == 0, done.err
    assert f"page: {tmp_path / 'page.html'}" in done.out
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    said = json.loads(ask("--image", query, "-k", 4, "--json", methods=["pixel", DMIN]).out)
    for text in (*said["fingerprints"].values(), "03.png", "caption 3", "Agreement", "lowest by pixel", f"by {DMIN}"):
        assert text in html
    for row in said["queries"][0]["methods"]["pixel"]["ranking"]:
        assert f"<td>{row['name']}</td>" in html.replace(' dir="auto"', "") and f"{row['score']:.6g}" in html
    found = Places(html)
    assert found.handlers == [] and len(found.addresses) > 4
    assert all(address.startswith(("#", "data:image/")) for address in found.addresses)
    assert "default-src &#39;none&#39;" in html and "url(" not in html and "@import" not in html


def test_hostile_captions_are_text_on_the_page(ask, tmp_path):
    rows = [{"file_name": f"{i:02d}.png", "text": HOSTILE[i % len(HOSTILE)]} for i in range(OWN_ITEMS)]
    metadata_csv(tmp_path / "images", *(row | {"family": HOSTILE[0]} for row in rows))
    assert ask("--image", tmp_path / "images" / "03.png", "--html", tmp_path / "page.html").code == 0
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = Places(html)
    assert found.handlers == [] and all(address.startswith(("#", "data:image/")) for address in found.addresses)
    assert html.count("<script") == 2 and "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_near_duplicates_are_one_picture_on_the_page(ask, tmp_path):
    with Image.open(tmp_path / "images" / "03.png") as image:
        image.point(lambda value: min(255, value + 2)).save(tmp_path / "images" / "04.png")  # a little lighter
    ask("--image", tmp_path / "images" / "03.png", "-k", 4, "--html", tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<td>4 (rank 2)</td>" in html and '"ranks":[[1,3,4]]' in html


@pytest.mark.parametrize(
    ("option", "name", "words"),
    [
        ("--html", "page.htm", "--html {}: a page's name is needed, ending in .html"),
        ("--html", "page", "--html {}: a page's name is needed, ending in .html"),
        ("--html", "there.html", "--html {} is there already: name another file, or replace it with --force"),
        ("--html", "folder.html", "--html {} is a folder: name a file in it"),
        ("--html", "imges/page.html", "did you mean"),
        ("--evidence", "map.txt", "--evidence {}: a picture's name is needed, ending in .png"),
        ("--evidence", "there.png", "--evidence {} is there already"),
        ("--evidence", "images/03.png", "--evidence {} is the picture to attribute"),
    ],
)
def test_a_name_that_will_not_do_is_one_line_before_anything_is_computed(ask, tmp_path, option, name, words):
    (tmp_path / "there.html").write_text("mine")
    (tmp_path / "there.png").write_bytes(b"mine")
    (tmp_path / "folder.html").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = ask("--image", tmp_path / "images" / "03.png", option, tmp_path / name, methods=[EVERY])
    assert done.code == 2 and len(done.complaint) == 1
    assert words.format(tmp_path / name) in done.complaint[0]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_page_and_map_are_replaced_with_force_only(ask, tmp_path):
    page, where = tmp_path / "page.html", tmp_path / "map.png"
    asked = "--image", tmp_path / "images" / "03.png", "--html", page, "--evidence", where
    assert ask(*asked, methods=[EVERY]).code == 0
    written = page.read_bytes(), where.read_bytes()
    assert ask(*asked, "-k", 2, methods=[EVERY]).code == 2
    assert (page.read_bytes(), where.read_bytes()) == written
    done = ask(*asked, "-k", 2, "--force", "--json", methods=[EVERY])
    assert done.code == 0 and json.loads(done.out)["html"] == str(page)
    assert json.loads(done.out)["evidence"] == str(where)
    assert page.read_bytes() != written[0] and where.read_bytes() != written[1]


@pytest.mark.parametrize(
    ("arguments", "methods", "words"),
    [
        (("--format", "jsonl", "--html", "PAGE"), ["pixel"], "--html needs all answers at once"),
        (("--format", "jsonl", "--evidence", "MAP"), [EVERY], "--evidence needs all answers at once"),
        (("--evidence", "MAP"), ["pixel", DMIN], f"no map of the evidence by pixel or {DMIN}"),
        (("--evidence", "MAP"), ["grad-dot:output=linf"], "no map of the evidence by grad-dot:output=linf"),
        (("--evidence", "MAP", "--image", "SECOND"), [EVERY], "of one picture: there are 2"),
        (("--evidence", "MAP", "--sheet", "MAP"), [EVERY], "--sheet and --evidence both name"),
    ],
)
def test_what_can_not_be_had_is_one_line_before_anything_is_computed(ask, tmp_path, arguments, methods, words):
    places = {"PAGE": tmp_path / "page.html", "MAP": tmp_path / "map.png", "SECOND": picture(tmp_path / "b.png", 60)}
    asked = [places.get(argument, argument) for argument in arguments]
    done = ask("--image", tmp_path / "images" / "03.png", *asked, methods=methods)
    assert done.code == 2 and len(done.complaint) == 1 and words in done.complaint[0]
    assert "gradients:" not in done.err
    assert not (tmp_path / "page.html").exists() and not (tmp_path / "map.png").exists()


def test_the_map_is_of_the_first_items_of_the_method_that_comes_apart_and_stands_on_the_page(ask, tmp_path):
    page, where = tmp_path / "page.html", tmp_path / "map.png"
    asked = "--image", tmp_path / "images" / "03.png", "--evidence", where, "--html", page, "--json"
    done = ask(*asked, methods=["pixel", EVERY])
    assert done.code == 0, done.err
    drawn = np.asarray(Image.open(where).convert("RGB")).astype(int)
    assert (drawn[..., 0] - drawn[..., 2] > 40).any()  # red
    html = page.read_text(encoding="utf-8")
    first = json.loads(done.out)["queries"][0]["methods"][EVERY]["ranking"][:4]
    shown = html.partition("<figcaption")[2]
    for row in first:
        assert f"item {row['item']} (score {row['score']:.4g})" in shown


@pytest.mark.parametrize("method", [EVERY, "dmin:v=none,timesteps=2"])
def test_maps_sum_to_the_scores_of_the_ranking(own, tmp_path, method):
    options = {"images": [tmp_path / "images" / "03.png"], "out": tmp_path / "out", "progress": False}
    answer = library.attribute(method, own, evidence=3, duplicates="list", **options)
    assert list(answer.evidence.items) == answer.ranking.ids[0, :3].tolist()
    np.testing.assert_allclose(answer.evidence.scores, answer.ranking.scores[0, :3], rtol=1e-3)
    assert np.abs(answer.evidence.maps).max() > 0
    assert library.attribute(method, own, **options).evidence is None
    with pytest.raises(UsageError, match="at least 0"):
        library.attribute(method, own, evidence=-1, **options)


def test_answers_are_shown_in_a_notebook_as_html_of_the_same_parts(own, tmp_path):
    pictures = [tmp_path / "images" / "03.png", tmp_path / "images" / "06.png"]
    options = {"images": pictures, "out": tmp_path / "out", "k": 3, "progress": False}
    both = library.attribute(["pixel", "pixel:similarity=l2"], own, **options)
    html = both._repr_html_()
    assert html.count("<img ") == 2 + 2 * 2 * 3 and "<script" not in html and "by pixel:" in html
    alone = library.attribute("pixel", own, **options)
    assert alone._repr_html_().count("<img ") == 2 + 2 * 3
    assert alone.to_html().startswith("<!DOCTYPE html>")
