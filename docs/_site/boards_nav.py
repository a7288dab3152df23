"""Put the pages of the boards into the navigation, so that a task's first record needs no edit of mkdocs.yml.

A hook of MkDocs (`hooks` in mkdocs.yml). The pages themselves are written by `tests/test_record_pages.py`.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig

BOARDS = Path(__file__).parent.parent / "boards"
SECTION = "Boards"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append a page for each task to the section `Boards` of mkdocs.yml."""
    (boards,) = (entry[SECTION] for entry in config.nav or [] if SECTION in entry)
    boards += [{page.stem: f"boards/{page.name}"} for page in sorted(BOARDS.glob("*.md")) if page.stem != "index"]
    return config
