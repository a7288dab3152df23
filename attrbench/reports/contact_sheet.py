"""Contact sheets: images of each query beside the training images that a method ranks first for it."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from attrbench.contracts.ranking import Ranking
from attrbench.contracts.task import Items
from attrbench.errors import AttrbenchError
from attrbench.files import write_atomically
from attrbench.text import one_line

TILE = 144
GAP = 8
LINE = 14
LINES = 3
COLUMNS = 7
QUERY_COLOR = "#c03030"


def contact_sheet(queries: Items, train: Items, ranking: Ranking, chosen: Sequence[int] | None = None) -> Image.Image:
    """Return an image that shows each query, framed, beside its top-ranked training images with their scores.

    Args:
        queries: the queries.
        train: the training set.
        ranking: [m, k] ids and scores; a score that is NaN is left out of the text.
        chosen: indices of the queries that are drawn; None for all.
    """
    places = range(len(queries)) if chosen is None else chosen
    blocks = [_block(queries, train, ranking, query) for query in places]
    sheet = Image.new("RGB", (max(block.width for block in blocks), sum(block.height for block in blocks)), "white")
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def png(picture: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a contact sheet (queries beside their top training images) as a PNG file.

    Raises:
        AttrbenchError: where the file can't be written.
    """
    try:
        write_atomically(path, png(sheet))
    except OSError as error:
        raise AttrbenchError(f"cannot write the contact sheet {path}: {error.strerror}") from None


def _block(queries: Items, train: Items, ranking: Ranking, query: int) -> Image.Image:
    """Return the part of a contact sheet for one query: the query image and its ranked training images."""
    ranked = [(rank, item) for rank, item in enumerate(ranking.ids[query].tolist(), start=1) if item >= 0]
    columns = min(COLUMNS, len(ranked) + 1)
    rows = -(-(len(ranked) + 1) // columns)
    step = TILE + GAP, TILE + LINES * LINE + 2 * GAP
    block = Image.new("RGB", (columns * step[0] + GAP, rows * step[1] + GAP), "white")
    draw = ImageDraw.Draw(block)
    about = queries.prompts[query] or (queries.names[query] if queries.names else queries.groups[query])
    _tile(block, (GAP, GAP), queries.images[query], ["query", *_wrapped(about)])
    draw.rectangle((GAP - 4, GAP - 4, GAP + TILE + 3, GAP + TILE + 3), outline=QUERY_COLOR, width=3)
    for rank, item in ranked:
        at = GAP + rank % columns * step[0], GAP + rank // columns * step[1]
        score = float(ranking.scores[query, rank - 1])
        line = f"{rank}.  {'' if math.isnan(score) else f'{score:.4g}  '}{one_line(train.groups[item])}"
        about = train.prompts[item] or (train.names[item] if train.names else "")
        _tile(block, at, train.images[item], [line, *_wrapped(about)])
    return block


def _tile(block: Image.Image, at: tuple[int, int], pixels: NDArray[np.uint8], lines: list[str]) -> None:
    """Draw one image [H, W, C], with lines of text under it, into a query's part of the contact sheet."""
    picture = picture_of(pixels)
    left, top = at
    block.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        draw.text((left, top + TILE + 5 + number * LINE), _cut(draw, line), fill="black", font=_font())


def picture_of(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return [H, W, C] pixels as an RGB image scaled to tile size; small images are enlarged without smoothing."""
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)).convert("RGB")
    scale = TILE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(one_line(text), width=27, max_lines=LINES - 1, placeholder=" …")


def _cut(draw: Any, line: str) -> str:
    """Return a line of text, truncated with an ellipsis where it is wider than a contact sheet's tile."""
    if draw.textlength(line, font=_font()) <= TILE:
        return line
    while line and draw.textlength(f"{line}…", font=_font()) > TILE:
        line = line[:-1]
    return f"{line}…"


@cache
def _font() -> Any:
    return ImageFont.load_default(size=11)
