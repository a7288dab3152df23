"""Lines of text in pictures: their width, where they break, how they are cut, and how they are drawn in any script."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from PIL import Image

from attrbench.reports.fonts import JOINERS, Face, face_of, own_face

ALONE = "\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
"""Characters of scripts without spaces between words, before which a line may break."""
WORD = re.compile(rf"\s*(?:[{ALONE}]|[^\s{ALONE}]+)")


def clean(text: object) -> str:
    """Return a text on one line, without control characters and direction marks, which would garble a picture."""
    joined = " ".join(str(text).split())
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn")
    return "".join(c for c in joined if c in JOINERS or unicodedata.category(c) not in hidden)


@lru_cache(maxsize=16384)
def width(line: str) -> float:
    """Return the width in pixels of a line that is clean."""
    return sum(face.width(part) for face, part in _parts(line))


def draw(picture: Image.Image, at: tuple[float, float], line: str, fill: str = "black") -> None:
    """Draw a line that is clean into a picture, each part in a font that has it."""
    left, top = at
    for face, part in _parts(line):
        face.draw(picture, (left, top), part, fill)
        left += face.width(part)


def shortened(text: str, pixels: int) -> str:
    """Return a text as one line that fits a width; the middle gives way to an ellipsis, as file names end apart."""
    line = clean(text)
    if width(line) <= pixels:
        return line
    kept = _largest(min(len(line), pixels), lambda count: width(_without_middle(line, count)) <= pixels)
    return _without_middle(line, kept)


@lru_cache(maxsize=4096)
def wrapped(text: str, pixels: int, lines: int) -> tuple[str, ...]:
    """Return a text broken into at most so many lines of a width in pixels, with an ellipsis where there is more."""
    beginning = clean(text[: lines * pixels])  # wider than all lines, unless it has characters of no width
    rows, line = [], ""
    for word in WORD.findall(beginning):
        if line and width(line + word) > pixels:
            rows.append(line)
            line = ""
        line += word if line else word.lstrip()
        while width(line) > pixels and len(rows) <= lines:
            head = max(1, _fitting(line, pixels))
            rows.append(line[:head])
            line = line[head:]
        if len(rows) > lines:
            break
    rows += [line] if line else []
    if len(rows) <= lines and len(text) <= lines * pixels:
        return tuple(rows)
    last = rows[lines - 1] if len(rows) >= lines else rows[-1]
    kept = _fitting(last, pixels - width("…"))
    return (*rows[: min(lines, len(rows)) - 1], f"{last[:kept].rstrip()}…")


def _fitting(line: str, pixels: float) -> int:
    """Return how many characters of a line fit a width."""
    return _largest(len(line), lambda count: width(line[:count]) <= pixels)


def _without_middle(line: str, kept: int) -> str:
    after = kept // 2
    return f"{line[: kept - after]}…{line[len(line) - after :]}"


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest count up to `most` that fits, by bisection."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _parts(line: str) -> list[tuple[Face, str]]:
    """Return a line as parts with the font of each, from left to right; a single one where a font has everything."""
    faces = [face_of(character) for character in line]
    for face in dict.fromkeys(face for face in faces if face is not None):
        if all(map(face.has, line)):
            return [(face, line)]
    parts: list[tuple[Face, str]] = []
    for character, known in zip(line, faces, strict=True):
        face = parts[-1][0] if character in JOINERS and parts else known or own_face()
        if character in JOINERS and face is own_face():
            continue  # it joins nothing there, and would be drawn as a box
        if parts and parts[-1][0] is face:
            parts[-1] = face, parts[-1][1] + character
        else:
            parts.append((face, character))
    return parts[::-1] if _is_right_to_left(line) else parts


def _is_right_to_left(line: str) -> bool:
    strong = (kind for kind in map(unicodedata.bidirectional, line) if kind in ("L", "R", "AL"))
    return next(strong, "L") != "L"
