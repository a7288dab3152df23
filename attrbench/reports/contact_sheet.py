"""Contact sheets: a picture, and the training images that a method ranks first for it."""

from __future__ import annotations

import io
import textwrap
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrbench.errors import AttrbenchError
from attrbench.files import write_atomically
from attrbench.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from attrbench.evaluation.attribute import Attribution

TILE = 144
GAP = 8
LINE = 14
LINES = 3
COLUMNS = 7
QUERY_COLOR = "#c03030"


def write_sheet(attribution: Attribution, path: Path) -> None:
    """Writes a PNG: for each query a block of rows, the query first and framed, then its training images by rank.

    Raises:
        AttrbenchError: where the file can't be written.
    """
    from PIL import Image

    blocks = [_block(attribution, index) for index in range(len(attribution.queries))]
    sheet = Image.new("RGB", (max(block.width for block in blocks), sum(block.height for block in blocks)), "white")
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise AttrbenchError(f"cannot write the contact sheet {path}: {error.strerror}") from None


def _block(attribution: Attribution, query: int) -> Image.Image:
    """One query's rows."""
    from PIL import Image, ImageDraw

    ranking, train = attribution.ranking, attribution.train
    found = [(rank, item) for rank, item in enumerate(ranking.ids[query].tolist(), start=1) if item >= 0]
    columns = min(COLUMNS, len(found) + 1)
    rows = -(-(len(found) + 1) // columns)
    step = TILE + GAP, TILE + LINES * LINE + 2 * GAP
    block = Image.new("RGB", (columns * step[0] + GAP, rows * step[1] + GAP), "white")
    draw = ImageDraw.Draw(block)
    about = attribution.queries.prompts[query] or attribution.queries.names[query]
    _tile(block, (GAP, GAP), attribution.queries.images[query], ["query", *_wrapped(about)])
    draw.rectangle((GAP - 4, GAP - 4, GAP + TILE + 3, GAP + TILE + 3), outline=QUERY_COLOR, width=3)
    for rank, item in found:
        at = GAP + rank % columns * step[0], GAP + rank // columns * step[1]
        score = f"{rank}.  {ranking.scores[query, rank - 1]:.4g}  {one_line(train.groups[item])}"
        about = train.prompts[item] or (train.names[item] if train.names else "")
        _tile(block, at, train.images[item], [score, *_wrapped(about)])
    return block


def _tile(block: Image.Image, at: tuple[int, int], pixels: NDArray[np.uint8], lines: list[str]) -> None:
    """A picture with lines of text under it."""
    from PIL import ImageDraw

    picture = picture_of(pixels)
    left, top = at
    block.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        draw.text((left, top + TILE + 5 + number * LINE), _cut(draw, line), fill="black", font=_font())


def picture_of(pixels: NDArray[np.uint8]) -> Image.Image:
    """[H, W, C] pixels as an RGB picture that fits a tile; small ones are enlarged pixel by pixel."""
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)).convert("RGB")
    scale = TILE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(one_line(text), width=27, max_lines=LINES - 1, placeholder=" …")


def _cut(draw: Any, line: str) -> str:
    """The line as far as it fits under a tile."""
    if draw.textlength(line, font=_font()) <= TILE:
        return line
    while line and draw.textlength(f"{line}…", font=_font()) > TILE:
        line = line[:-1]
    return f"{line}…"


@cache
def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=11)
