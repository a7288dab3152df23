"""The gallery of a report: queries by methods, each with the training items that the method ranks first.

Its data go into the page as JSON, each picture once however often it is shown; the page's script draws one query at a
time, so that a page with fifty methods and a hundred queries stays small and fast.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from attrbench.contracts.task import Items
from attrbench.contracts.thumbnails import Thumbnail, Thumbnails
from attrbench.data.thumbnail_pictures import media_type, thumbnail_of
from attrbench.reports.contact_sheet import Strip
from attrbench.reports.ranking import Row, Table
from attrbench.reports.table_cells import shown
from attrbench.reports.text_lines import clean

CAPTION = 600
"""Characters of a caption that are shown."""


@dataclass(frozen=True)
class GalleryRun:
    """A method's row of the gallery: for each query the items that it ranks first.

    Attributes:
        label: the method.
        ranking: for each query the ids of the items; those below 0 are left out.
        scores: theirs, where they are known.
        ranks: theirs, where these are not 1, 2, 3, ...
        alike: for each query and item the (rank, id) of near-duplicates that its picture stands for.
    """

    label: str
    ranking: Sequence[Sequence[int]]
    scores: Sequence[Sequence[float | None]] = ()
    ranks: Sequence[Sequence[int]] = ()
    alike: Sequence[Sequence[Sequence[tuple[int, int]]]] = ()

    def data(self, queries: Sequence[int]) -> dict[str, object]:
        """Return the row as JSON values, for some of the queries in this order."""
        return {
            "label": self.label,
            "ids": [[item for item in _at(self.ranking, query) if item >= 0] for query in queries],
            "scores": [_rounded(_at(self.scores, query), _at(self.ranking, query)) for query in queries],
            **({"ranks": [self.ranks[query] for query in queries]} if self.ranks else {}),
            **({"alike": [self.alike[query] for query in queries]} if self.alike else {}),
        }


@dataclass(frozen=True)
class Gallery:
    """A gallery for a template: the script's data, and the queries for the list to choose from.

    Attributes:
        data: what JSON can hold: `pictures` as data URLs, `items` and `queries` as [picture, group, caption, name],
            `runs` with ids and, in short, scores by query.
        queries: (index, what it is called in the list).
        missing: number of shown items without a picture.
        has_groups: whether a query has a group, so that items are right or wrong.
    """

    data: Mapping[str, object]
    queries: Sequence[tuple[int, str]]
    missing: int
    has_groups: bool


def table_gallery(table: Table, thumbnails: Thumbnails | None, k: int, most: int) -> Gallery | None:
    """Return the gallery of a table's runs, ranked ones first; None where there are no pictures of its queries."""
    rows = [row for row in [*table.ranked, *table.below] if row.record.ranking]
    if thumbnails is None or not thumbnails.queries or not rows:
        return None
    queries = sorted(thumbnails.queries)[:most]
    return make_gallery([_run(table, row, thumbnails, k) for row in rows], thumbnails, queries)


def _run(table: Table, row: Row, thumbnails: Thumbnails, k: int) -> GalleryRun:
    record = row.record
    known = thumbnails.scores.get(record.identity, ())
    return GalleryRun(
        f"{row.place} {shown(record.method.label)}".lstrip(),
        [ids[:k] for ids in record.ranking],
        [scores[:k] for scores in known],
    )


def strips_gallery(queries: Items, train: Items, strips: Sequence[Strip]) -> Gallery:
    """Return the gallery of what a contact sheet shows in rows, with pictures made of the items' pixels.

    Args:
        queries: [m] queries.
        train: the training set; of it only what is ranked is read.
        strips: [m, k] rankings with their titles; near-duplicates are one picture.
    """
    runs = [_run_of(strip, len(queries)) for strip in strips]
    shown_items = sorted({item for run in runs for row in run.ranking for item in row})
    thumbnails = Thumbnails(
        "",
        "",
        {index: thumbnail_of(queries, index) for index in range(len(queries))},
        {item: thumbnail_of(train, item) for item in shown_items},
    )
    return make_gallery(runs, thumbnails, range(len(queries)))


def _run_of(strip: Strip, queries: int) -> GalleryRun:
    """Return a strip as a row of a gallery; scores that are not finite are not shown."""
    ids, scores = strip.ranking.ids.tolist(), strip.ranking.scores.tolist()
    places = [strip.places(query) for query in range(queries)]
    alike = strip.alike or []
    return GalleryRun(
        tidy(strip.title),
        [[ids[query][place] for place in row] for query, row in enumerate(places)],
        [[_finite(scores[query][place]) for place in row] for query, row in enumerate(places)],
        [[place + 1 for place in row] for row in places],
        [
            [[(other + 1, ids[query][other]) for other in copies[place]] for place in places[query]]
            for query, copies in enumerate(alike)
        ],
    )


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None


def make_gallery(runs: Sequence[GalleryRun], thumbnails: Thumbnails, queries: Iterable[int]) -> Gallery:
    """Return a gallery of these queries: every picture once, every text clean and cut."""
    pictures = _Pictures()
    chosen = list(queries)
    drawn = {item for run in runs for query in chosen for item in _at(run.ranking, query) if item >= 0}
    items = {item: pictures.entry(thumbnails.train[item]) for item in sorted(drawn) if item in thumbnails.train}
    return Gallery(
        data={
            "queries": {query: pictures.entry(thumbnails.queries[query]) for query in chosen},
            "items": items,
            "runs": [run.data(chosen) for run in runs],
            "pictures": pictures.urls,
        },
        queries=[(query, _name_of_query(query, thumbnails.queries[query])) for query in chosen],
        missing=len(drawn) - len(items),
        has_groups=any(thumbnails.queries[query].group for query in chosen),
    )


class _Pictures:
    """The pictures of a page as data URLs, each distinct one once."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self._places: dict[bytes, int] = {}

    def entry(self, thumbnail: Thumbnail) -> list[object]:
        """Return [number of its picture, group, caption, name] of a thumbnail; texts at the end that are empty lack."""
        if thumbnail.picture not in self._places:
            self._places[thumbnail.picture] = len(self.urls)
            self.urls.append(data_url(thumbnail.picture))
        texts = [tidy(thumbnail.group), tidy(thumbnail.caption), tidy(thumbnail.name)]
        while texts and not texts[-1]:
            texts.pop()
        return [self._places[thumbnail.picture], *texts]


def data_url(picture: bytes) -> str:
    """Return the file of a picture as a URL that holds it."""
    return f"data:{media_type(picture) or 'image/png'};base64,{base64.b64encode(picture).decode()}"


def tidy(text: str) -> str:
    """Return a text from a data set on one line, without control characters and direction marks, cut where long."""
    line = clean(text[: 4 * CAPTION])
    return line if len(line) <= CAPTION and len(text) <= 4 * CAPTION else f"{line[: CAPTION - 1]}…"


def _at(rows: Sequence[Sequence[int]] | Sequence[Sequence[float | None]], query: int) -> Sequence[int]:
    """Return a query's row; an empty one where a run has fewer queries."""
    return rows[query] if query < len(rows) else ()  # type: ignore[return-value]


def _rounded(scores: Sequence[float | None], ids: Sequence[int]) -> list[int | None]:
    """Return a query's scores in short: the power of ten, then each as a multiple of it, four digits for the largest.

    Of items that were not found the scores are left out; where none is known, the list is empty.
    """
    known = [score for score, item in zip(scores, ids, strict=False) if item >= 0]
    largest = max((abs(score) for score in known if score), default=1.0)
    power = math.floor(math.log10(largest)) - 3 if known else 0
    return [power, *(None if score is None else round(score / 10.0**power) for score in known)] if known else []


def _name_of_query(query: int, thumbnail: Thumbnail) -> str:
    text = tidy(thumbnail.caption)[:60] or tidy(thumbnail.name)[-60:]
    return ", ".join(filter(None, (f"query {query}", thumbnail.group and f"group {tidy(thumbnail.group)[:30]}", text)))
