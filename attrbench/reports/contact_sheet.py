"""Contact sheets: images of each query beside the training images that a method ranks first for it, on pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from attrbench.contracts.ranking import Ranking
from attrbench.contracts.task import Items
from attrbench.reports.fonts import scripts_without_font
from attrbench.reports.text_lines import clean, draw, shortened, wrapped

TILE = 144
GAP = 8
LINE = 16
LINES = 4
COLUMNS = 7
FEWEST_COLUMNS = 5
"""A page is at least so wide, for its heading."""
ROWS = 20
"""Rows of pictures on a page."""
HEADING_LINES = 2
"""Lines that each part of a heading may take."""
WARNING_COLOR = QUERY_COLOR = "#c03030"
MEANING = "Scores: the larger, the more the image counts for the query. Compare them within one query only."
MEANING_OF_SEVERAL = MEANING.replace("query only", "query and method only")
COPIES = "(x2): stands for two training images that are nearly the same."


@dataclass(frozen=True)
class Heading:
    """The text on top of each page of a contact sheet: what ranks what, and what a reader must beware of.

    Attributes:
        title: method and task.
        summary: what the method's scores are.
        warnings: why scores may mean less than they seem to.
    """

    title: str
    summary: str = ""
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Strip:
    """A ranking of training items for each query, which a contact sheet draws in rows after the query's image.

    Attributes:
        ranking: [m, k] ids and scores; a score that is NaN is left out of the text; an id of -1 is left out.
        title: what ranks, where there are several strips.
        alike: for each query the places in the ranking that are drawn, with the places of the near-duplicates that
            each stands for; None where every place is drawn.
    """

    ranking: Ranking
    title: str = ""
    alike: Sequence[Mapping[int, Sequence[int]]] | None = None

    @property
    def has_copies(self) -> bool:
        """Return whether a picture stands for several near-duplicates."""
        return any(copies for places in self.alike or () for copies in places.values())

    def places(self, query: int) -> list[int]:
        """Return the places in a query's ranking that are drawn, in order."""
        if self.alike is not None:
            return sorted(self.alike[query])
        return np.flatnonzero(self.ranking.ids[query] >= 0).tolist()

    def rank_line(self, query: int, place: int, group: str) -> str:
        """Return the text under a training image: rank, score, group, and how many near-duplicates it stands for."""
        score = float(self.ranking.scores[query, place])
        copies = () if self.alike is None else self.alike[query][place]
        number = f"{place + 1}." + (f" (x{1 + len(copies)})" if copies else "")
        parts = ["" if math.isnan(score) else f"{score:.4g}", f"group {group}" if group else ""]
        return f"{number} {', '.join(filter(None, parts))}"


@dataclass(frozen=True)
class _Block:
    """A stretch of one query's ranking in a strip that is drawn on one page, after the query's image."""

    query: int
    strip: Strip
    ranks: Sequence[int]
    is_continued: bool = False

    @property
    def rows(self) -> int:
        return -(-(len(self.ranks) + 1) // COLUMNS)


@dataclass(frozen=True)
class ContactSheet(Sequence[Image.Image]):
    """The pages of a contact sheet, which are drawn when they are asked for.

    Each query is framed, and followed by its top-ranked training images with rank, score, group, file and caption.

    Attributes:
        queries: the queries.
        train: the training set.
        strips: rankings, drawn one below the other for each query.
        heading: the text on top.
        chosen: indices of the queries that are drawn; None for all.
        rows: rows of images on a page; None for a single page of any length.
    """

    queries: Items
    train: Items
    strips: Sequence[Strip]
    heading: Heading
    chosen: Sequence[int] | None = None
    rows: int | None = field(default=ROWS)

    @cached_property
    def _pages(self) -> list[list[_Block]]:
        """Return the blocks of each page: a query goes to a new page rather than be cut, if a page can hold it."""
        pages: list[list[_Block]] = [[]]
        for block in self._blocks():
            used = sum(other.rows for other in pages[-1])
            if pages[-1] and self.rows is not None and used + block.rows > self.rows:
                pages.append([])
            pages[-1].append(block)
        return pages

    def _blocks(self) -> Iterator[_Block]:
        for query in range(len(self.queries)) if self.chosen is None else self.chosen:
            for strip in self.strips:
                places = strip.places(query)
                most = max(1, len(places)) if self.rows is None else self.rows * COLUMNS - 1
                for first in range(0, max(1, len(places)), most):
                    yield _Block(query, strip, places[first : first + most], first > 0)

    def __len__(self) -> int:
        return len(self._pages)

    def __getitem__(self, number: int) -> Image.Image:  # type: ignore[override]  # a slice of pages is of no use
        """Return a page, drawn anew."""
        blocks = self._pages[number]
        widest = max(len(block.ranks) + 1 for page in self._pages for block in page)
        columns = max(FEWEST_COLUMNS, min(COLUMNS, widest))
        step = TILE + LINES * LINE + 2 * GAP
        heading = self._heading(number % len(self), columns * (TILE + GAP) - GAP)
        top = GAP + len(heading) * LINE + GAP
        height = top + sum(block.rows for block in blocks) * step + GAP
        page = Image.new("RGB", (columns * (TILE + GAP) + GAP, height), "white")
        for place, (line, color) in enumerate(heading):
            draw(page, (GAP, GAP + place * LINE), line, color)
        for block in blocks:
            self._draw_block(page, top, block)
            top += block.rows * step
        return page

    def _heading(self, number: int, width: int) -> list[tuple[str, str]]:
        """Return the lines on top of a page with their colors."""
        title = self.heading.title + (f", page {number + 1} of {len(self)}" if len(self) > 1 else "")
        meaning = MEANING_OF_SEVERAL if all(strip.title for strip in self.strips) else MEANING
        has_copies = any(strip.has_copies for strip in self.strips)
        parts = [(title, "black"), (self.heading.summary, "#404040")]
        parts.append((f"{meaning} {COPIES}" if has_copies else meaning, "#404040"))
        parts += [(f"Warning: {warning}", WARNING_COLOR) for warning in self.heading.warnings]
        return [(line, color) for text, color in parts for line in wrapped(text, width, HEADING_LINES)]

    def _draw_block(self, page: Image.Image, top: int, block: _Block) -> None:
        """Draw the query's image and its ranked training images, row by row."""
        queries, query = self.queries, block.query
        first = "query" if block.ranks else "query, not ranked"
        about = _about(queries, query, f"{first}, continued" if block.is_continued else first, title=block.strip.title)
        _tile(page, (GAP, top), queries.images[query], about)
        frame = GAP - 4, top - 4, GAP + TILE + 3, top + TILE + 3
        ImageDraw.Draw(page).rectangle(frame, outline=QUERY_COLOR, width=3)
        for place, rank in enumerate(block.ranks, start=1):
            item = int(block.strip.ranking.ids[query, rank])
            left = GAP + place % COLUMNS * (TILE + GAP)
            down = top + place // COLUMNS * (TILE + LINES * LINE + 2 * GAP)
            line = block.strip.rank_line(query, rank, self.train.groups[item])
            about = _about(self.train, item, line, f"item {item}")
            _tile(page, (left, down), self.train.images[item], about)

    def scripts_without_font(self) -> dict[str, str]:
        """Return the scripts of names, groups and captions that can't be drawn here, each with an example."""
        blocks = [block for page in self._pages for block in page]
        items = sorted({int(block.strip.ranking.ids[block.query, rank]) for block in blocks for rank in block.ranks})
        lines = [line for query in {block.query: None for block in blocks} for line in _about(self.queries, query, "")]
        lines += [line for item in items for line in _about(self.train, item, self.train.groups[item])]
        return scripts_without_font(lines)


def _about(items: Items, index: int, first: str, without_name: str = "", title: str = "") -> list[str]:
    """Return the lines under an image: given ones, the name of its file, and its caption in what is left."""
    name = items.names[index] if items.names else without_name
    lines = [shortened(line, TILE) for line in (first, title, name) if line]
    return [*lines, *wrapped(items.prompts[index], TILE, LINES - len(lines))]


def _tile(page: Image.Image, at: tuple[int, int], pixels: NDArray[np.uint8], lines: Sequence[str]) -> None:
    """Draw one image [H, W, C], with lines of text under it, into a page."""
    picture = picture_of(pixels)
    left, top = at
    page.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
    for number, line in enumerate(lines):
        draw(page, (left, top + TILE + 5 + number * LINE), clean(line))


def picture_of(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return [H, W, C] pixels as an RGB image scaled to tile size; small images are enlarged without smoothing."""
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)).convert("RGB")
    scale = TILE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
