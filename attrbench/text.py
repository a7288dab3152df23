"""Text that others wrote, made safe to show."""

from __future__ import annotations


def plain(text: object) -> str:
    """On one line and without what a terminal would obey: what is not printable becomes '?'."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def one_line(text: object) -> str:
    """As `plain`, with single spaces for line breaks and whatever else is blank."""
    return plain(" ".join(str(text).split()))
