"""Functions that make text from others (captions, file names) safe to print on a terminal."""

from __future__ import annotations


def plain(text: object) -> str:
    """Return the text with every unprintable character (line breaks, terminal escapes) replaced by '?'."""
    line = str(text)
    return line if line.isprintable() else "".join(c if c.isprintable() else "?" for c in line)


def one_line(text: object) -> str:
    """Return the text on one line: whitespace becomes single spaces, other unprintable characters become '?'."""
    return plain(" ".join(str(text).split()))
