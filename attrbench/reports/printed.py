"""Tables of results as plain text, for `print` in an interpreter or a script."""

from __future__ import annotations

import io
import shutil

from rich.console import Console, RenderableType

WIDE = 160
"""Characters of a line where no terminal says how many it has."""


def line_length() -> int:
    """Return the characters of a line of the terminal, or those that COLUMNS says, or `WIDE`."""
    return shutil.get_terminal_size((WIDE, 24)).columns


def printed(*parts: RenderableType) -> str:
    """Return what rich draws as plain text, without colors and without a line break at the end."""
    text = io.StringIO()
    console = Console(file=text, width=line_length(), highlight=False, color_system=None, force_jupyter=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())
