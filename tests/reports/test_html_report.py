"""The HTML report is one safe, self-contained file, with the numbers of the board."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from attrbench.contracts.record import read_records
from attrbench.contracts.thumbnails import Thumbnail, Thumbnails
from attrbench.data.thumbnail_pictures import thumbnail_picture
from attrbench.reports.leaderboard import rank_records
from attrbench.reports.quantities import human_seconds
from attrbench.reports.table_cells import interval_text, shown, storage_text
from tests.reports.html_material import HOSTILE, make, records, thumbnails

LEADERBOARDS = Path(__file__).parent.parent.parent / "leaderboards"
VOID = {"meta", "link", "img", "input", "br", "wbr", "hr"}


class Page(HTMLParser):
    """A page's elements, the text in them, and the faults of its nesting."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.faults, self.elements, self.texts = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in VOID:
            self.open.append((tag, len(self.texts) - 1))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")

    def handle_endtag(self, tag):
        if not self.open or self.open[-1][0] != tag:
            self.faults.append((tag, self.getpos()))
        else:
            self.open.pop()

    def handle_data(self, data):
        for _, place in self.open:
            self.texts[place] += data

    def all(self, tag):
        return [(attrs, text) for (name, attrs), text in zip(self.elements, self.texts, strict=True) if name == tag]


@pytest.fixture(scope="module")
def published():
    found, problems = read_records(LEADERBOARDS / "ddpm-mnist-mini")
    assert problems == []
    return found


@pytest.fixture(scope="module")
def mnist(published):
    return make(published)


@pytest.fixture(scope="module")
def small():
    given = records()
    return make(given, thumbnails(given))


def policy_of(page):
    (content,) = (attrs["content"] for attrs, _ in page.all("meta") if "http-equiv" in attrs)
    return dict(part.strip().split(" ", 1) for part in content.split(";"))


def test_elements_are_closed_in_the_order_in_which_they_were_opened(mnist, small):
    for html in (mnist, small):
        page = Page(html)
        assert page.faults == [] and page.open == []


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(mnist, small):
    for html in (mnist, small):
        page = Page(html)
        policy = policy_of(page)
        assert policy["default-src"] == "'none'" and policy["img-src"] == "data:"
        for element, directive in (("style", "style-src"), ("script", "script-src")):
            ((_, content),) = [(a, text) for a, text in page.all(element) if a.get("type") != "application/json"]
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert policy[directive] == f"'sha256-{digest}'"
        tags = [tag for tag, _ in page.elements]
        assert tags.index("meta") < tags.index("style") < tags.index("script")


def test_nothing_in_the_page_names_an_address_or_runs_by_an_attribute(mnist, small):
    for html in (mnist, small):
        for tag, attrs in Page(html).elements:
            for name, value in attrs.items():
                assert not name.startswith("on") and name != "style", (tag, name)
                if name in ("href", "src"):
                    assert value.startswith(("#", "data:image/")), (tag, value)
            assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "url(" not in html and "@import" not in html
        assert not re.search(
            r"(?:https?:)?//[a-z]", re.sub(r"data:image/[^\"]*", "", html).replace("// Everything", "")
        )


def test_the_board_has_the_rows_and_the_numbers_of_the_leaderboard_in_its_order(published, mnist):
    (table,) = rank_records(published).tables
    page = Page(mnist)
    bodies = re.findall(r"<tbody>(.*?)</tbody>", mnist, flags=re.DOTALL)
    rows = re.findall(r"<tr.*?</tr>", bodies[0], flags=re.DOTALL)
    assert len(rows) == len(table.ranked) == 60
    for text, row in zip(rows, table.ranked, strict=True):
        cells = [
            re.sub(r"<small>.*?</small>|<[^>]*>", "", c).strip()
            for c in re.findall(r"<t[dh].*?</t[dh]>", text, re.DOTALL)
        ]
        result, record = row.record.metric(table.metric), row.record
        times = (record.latency.query.p50, record.latency.query.p95, record.latency.cache + record.latency.fit)
        assert cells[:4] == [
            f"{row.rank}{'=' if row.tied else ''}",
            shown(record.method.label),
            f"{result.value:.3f}",
            interval_text(result),
        ]
        assert cells[5] == storage_text(record.storage).split(" (")[0]
        assert cells[6:9] == [human_seconds(seconds) for seconds in times]
        assert cells[-1].startswith("✓") == row.pareto
    assert f"{table.random:.3f}" in re.findall(r"<tfoot>(.*?)</tfoot>", mnist, re.DOTALL)[0]
    assert [text for _, text in page.all("h1")] == ["attrbench report: ddpm-mnist-mini v1"]


def test_every_run_has_its_command_and_its_versions(published, mnist):
    commands = [text for _, text in Page(mnist).all("code")]
    for record in published:
        assert record.command in commands
    assert mnist.count(published[0].provenance.git_revision[:12]) >= 1


def test_a_report_takes_no_more_than_a_megabyte_for_44_runs_besides_its_pictures(published, mnist):
    most = 1_000_000 * len(published) / 44
    assert len(mnist.encode()) < 1_000_000
    fingerprint = published[0].task.fingerprint
    picture = thumbnail_picture(np.zeros((28, 28, 1), np.uint8))
    top = {item for record in published for row in record.ranking for item in row[:10]}
    scores = {record.identity: [[-1.234e-05] * 10] * 100 for record in published}
    known = {item: Thumbnail(picture, str(item % 10)) for item in top}
    sheet = Thumbnails("t", fingerprint, {query: Thumbnail(picture, "1") for query in range(100)}, known, scores)
    assert len(top) > 1500 and len(published) == 60
    with_scores = make(published, {fingerprint: sheet})
    assert len(with_scores.encode()) < most  # the one picture is there once


def gallery_data(html):
    (text,) = (text for attrs, text in Page(html).all("script") if attrs.get("type") == "application/json")
    return json.loads(text)


def test_the_gallery_holds_the_top_of_every_ranking_and_each_picture_once(small):
    given = records()
    data = gallery_data(small)
    known = thumbnails(given)[given[0].task.fingerprint]
    assert len(data["pictures"]) == len(set(data["pictures"]))
    assert small.count(data["pictures"][0]) == 1
    by_label = {run["label"].split(" ")[-1]: run for run in data["runs"]}
    assert by_label.keys() == {"good", "fair", "poor"}
    for record in given[:3]:
        assert by_label[record.method.label]["ids"] == [row[:10] for row in record.ranking]
    assert by_label["good"]["scores"][0][:4] == [-3, 1000, 900, 800] and by_label["fair"]["scores"][0] == []
    for item, (place, group, caption, name) in ((int(i), entry) for i, entry in data["items"].items()):
        assert base64.b64decode(data["pictures"][place].partition(",")[2]) == known.train[item].picture
        assert (group, caption, name) == (known.train[item].group, f"a picture {item}", f"{item}.png")


def test_options_bound_the_gallery():
    given = records()
    data = gallery_data(make(given, thumbnails(given), k=3, queries=2))
    assert list(data["queries"]) == ["0", "1"]
    assert {len(ids) for run in data["runs"] for ids in run["ids"]} == {3}


def test_records_without_thumbnails_say_so_where_the_gallery_would_be(mnist, published):
    sheet = f"thumbnails-{published[0].task.fingerprint[:10]}.zip"
    assert "No pictures" in mnist and sheet in mnist and "<select" not in mnist


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_from_records_and_data_sets_are_text_wherever_they_are_shown(text):
    given = records()
    evil = given[0].model_copy(
        update={
            "method": given[0].method.model_copy(update={"label": text, "summary": text, "distribution": text}),
            "task": given[0].task.model_copy(update={"label": text, "options": {text: text}}),
            "hardware": given[0].hardware.model_copy(update={"hardware_class": "cpu"}),
            "command": text,
            "notes": [text],
            "facts": {text: 1.0},
            "query_groups": [text] * 6,
        }
    )
    broken = given[3].model_copy(update={"error": text})
    plain = Page(make(given, thumbnails(given)))
    page = Page(html := make([evil, *given[1:3], broken], thumbnails(given, caption=text, group=text)))
    assert page.faults == []
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements}
    assert {name for _, attrs in page.elements for name in attrs} <= {n for _, attrs in plain.elements for n in attrs}
    assert "\x1b" not in html and "‮" not in html
    assert "x" * 5000 not in html
    items = gallery_data(html)["items"].values()
    assert all(caption.rstrip("…") in text.replace("\x1b", "").replace("‮", "") for _, _, caption, *_ in items)


def test_the_same_records_give_the_same_bytes():
    given = records()
    assert make(given, thumbnails(given)) == make(list(reversed(given)), thumbnails(given))


def test_another_metric_and_several_tasks_each_have_their_board():
    html = make([*records(), *records(task="u")], metric="d@1")
    page = Page(html)
    assert [attrs["id"] for attrs, _ in page.all("h2")] == ["t1", "t2"]
    anchors = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(anchors) == len(set(anchors))
    assert all(attrs["href"][1:] in anchors for attrs, _ in page.all("a"))


def test_boards_with_one_run_and_with_none_are_made():
    (one, *_, broken) = records()
    assert "boom" in make([broken])
    assert "good" in make([one])
    flat = one.model_copy(
        update={"metrics": [one.metrics[0].model_copy(update={"per_query": [0.5] * 6, "value": 0.5})]}
    )
    assert "0.500" in make([flat])
    free = one.model_copy(update={"storage": one.storage.model_copy(update={"rows": 0})})
    assert "none" in make([free, one.model_copy(update={"identity": "x"})])
