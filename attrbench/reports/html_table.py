"""Rendering of leaderboards as HTML for notebooks, with the parts of the HTML report."""

from attrbench.reports.html.notebook import fragment as to_html

__all__ = ["to_html"]
