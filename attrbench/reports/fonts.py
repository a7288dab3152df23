"""Fonts of this machine for the scripts that Pillow's own font lacks (CJK, Arabic, Hebrew, emoji, ...)."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

SIZE = 11
BITMAP_SIZES = (109, 136, 160, 96, 64)
"""Sizes in pixels that fonts of colored bitmaps (emoji) come in."""
JOINERS = "\u200c\u200d\ufe0e\ufe0f"
"""Characters without a width of their own, which join their neighbors or choose a form."""
NO_CHARACTER = "\U0010ffff"
SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")


@dataclass(frozen=True, eq=False)
class Face:
    """A font at the size of a contact sheet's text; fonts of bitmaps have a size of their own, and are scaled.

    Attributes:
        font: as Pillow opens it.
        scale: from the font's size to the text's; 1, except for fonts of bitmaps.
    """

    font: ImageFont.FreeTypeFont
    scale: float = 1.0

    def has(self, character: str) -> bool:
        """Return whether the font has a glyph for a character, other than the one for missing characters."""
        if character.isspace() or character in JOINERS:
            return True
        return _glyph(self, character) != _glyph(self, NO_CHARACTER)

    def width(self, text: str) -> float:
        """Return the width of a text in pixels."""
        return self.font.getlength(text) * self.scale

    def draw(self, picture: Image.Image, at: tuple[float, float], text: str, fill: str) -> None:
        """Draw a text with its upper left corner at a place of a picture."""
        if self.scale == 1:
            ImageDraw.Draw(picture).text(at, text, fill=fill, font=self.font, embedded_color=True)
            return
        left, top, right, bottom = (round(value) for value in self.font.getbbox(text))
        large = Image.new("RGBA", (max(1, right - left), max(1, bottom - top)))
        ImageDraw.Draw(large).text((-left, -top), text, fill=fill, font=self.font, embedded_color=True)
        size = max(1, round(large.width * self.scale)), max(1, round(large.height * self.scale))
        small = large.resize(size, Image.Resampling.LANCZOS)
        picture.paste(small, (round(at[0]), round(at[1])), small)


@lru_cache(maxsize=65536)
def _glyph(face: Face, character: str) -> tuple[tuple[int, int], bytes]:
    """Return size and pixels of a character as a font draws it."""
    left, top, right, bottom = (round(value) for value in face.font.getbbox(character))
    size = max(1, right - left), max(1, bottom - top)
    image = Image.new("RGBA", size)
    ImageDraw.Draw(image).text((-left, -top), character, font=face.font, embedded_color=True)
    return size, image.tobytes()


@cache
def own_face() -> Face:
    """Return the font that comes with Pillow, which has the Latin letters."""
    font = ImageFont.load_default(size=SIZE)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return Face(font)


@lru_cache(maxsize=65536)
def face_of(character: str) -> Face | None:
    """Return a font that draws a character: Pillow's own, or one of this machine; None where none does."""
    if own_face().has(character):
        return own_face()
    right_to_left = unicodedata.bidirectional(character) in ("R", "AL")
    if right_to_left and not features.check("raqm"):  # it would be drawn backwards, its letters not joined
        return None
    return next((face for face in _faces_for(_searched_as(character)) if face.has(character)), None)


def scripts_without_font(texts: Iterable[str]) -> dict[str, str]:
    """Return the scripts that nothing here can draw, such as `Arabic`, each with the first text that needs it."""
    lacking: dict[str, str] = {}
    for text in texts:
        for character in text:
            if face_of(character) is None:
                lacking.setdefault(script_of(character), text)
    return lacking


def script_of(character: str) -> str:
    """Return the script of a character, such as `Arabic` or `CJK`; `emoji` or `symbols` for what is no letter."""
    if unicodedata.category(character)[0] in "LM":
        name = unicodedata.name(character, "unknown script").split()[0]
        return name if name == "CJK" else name.title()
    return "emoji" if ord(character) >= 0x1F000 else "symbols"


def _searched_as(character: str) -> str:
    """Return the character for which fonts are searched: the first that was met of its script, else itself."""
    script = script_of(character)
    return character if script in ("emoji", "symbols") else _first_met(script, character)


_met: dict[str, str] = {}


def _first_met(script: str, character: str) -> str:
    return _met.setdefault(script, character)


@cache
def _faces_for(character: str) -> tuple[Face, ...]:
    """Return the fonts of this machine that have a character, plain ones first; the search opens every font file."""
    files: Sequence[Path] = font_files()
    if script_of(character) == "emoji":  # colored ones first
        files = sorted(files, key=lambda path: "emoji" not in path.stem.lower())
    return tuple(face for path in files if (face := _open(path)) is not None and face.has(character))


@cache
def font_files() -> tuple[Path, ...]:
    """Return the font files in the usual folders of the system and of the user, plain sans-serif ones first."""
    files = {
        Path(place) / name
        for folder in _font_folders()
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES)
    }
    return tuple(sorted(files, key=lambda path: (_oddness(path.stem.lower()), path.name, str(path))))


def _font_folders() -> list[Path]:
    """Return the folders in which Linux, macOS and Windows keep fonts."""
    home = Path.home()
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts", home / "AppData/Local/Microsoft/Windows/Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or home / ".local/share"
    return [*(Path(folder) / "fonts" for folder in (*shared.split(":"), own) if folder), home / ".fonts"]


def _oddness(stem: str) -> int:
    """Return how far a font is from a plain sans-serif one, by its file's name."""
    words = ("bold", "italic", "oblique", "serif", "mono", "light", "thin", "black", "condensed", "narrow", "math")
    return sum(word in stem.replace("sans-serif", "") for word in words)


@cache
def _open(path: Path) -> Face | None:
    """Return a font file at the size of the text, or at its own; None where Pillow can't read it."""
    for size in (SIZE, *BITMAP_SIZES):
        try:
            return Face(ImageFont.truetype(str(path), size), SIZE * 1.2 / size if size != SIZE else 1.0)
        except OSError:
            continue
    return None
