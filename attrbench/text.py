"""Text that others wrote, made safe to show."""

from __future__ import annotations


def plain(text: object) -> str:
    """On one line and without what a terminal would obey: what is not printable becomes '?', line breaks spaces."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in str(text))
