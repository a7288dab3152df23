"""Checks of a page's accessibility in the browser: what a program can tell of WCAG 2.2, level AA."""

from pathlib import Path

CHECKS = Path(__file__).with_name("accessibility.js").read_text(encoding="utf-8")


def findings(browser) -> list[str]:
    """Return what is wrong with the page that the browser shows, a line each."""
    return browser.run(CHECKS)
