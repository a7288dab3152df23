"""The HTML report: one file with everything that records tell, which needs no network, no server and no task."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from attrbench.contracts.options import Options
from attrbench.contracts.ranking import Ranking
from attrbench.contracts.report import Material, Report
from attrbench.contracts.task import Items
from attrbench.reports.contact_sheet import MEANING, Heading
from attrbench.reports.html.agreement import Agreement, make_agreement
from attrbench.reports.html.board import Board, make_board
from attrbench.reports.html.gallery import Gallery, arrays_gallery, table_gallery, tidy
from attrbench.reports.html.plot import Plot
from attrbench.reports.html.plots import criterion_plots, curve_plots, pareto_plots
from attrbench.reports.html.provenance import Provenance, make_provenance
from attrbench.reports.html.queries import Differences, Strip, make_differences, make_strip
from attrbench.reports.html.templates import environment, source
from attrbench.reports.leaderboard import rank_records
from attrbench.reports.ranking import Table
from attrbench.reports.table_cells import shown
from attrbench.version import __version__


class HtmlOptions(Options):
    """The options of the HTML report, which bound the gallery."""

    k: int = Field(10, ge=1, le=100)
    """Training images of each method in the gallery; runs keep pictures of the first 10."""
    queries: int = Field(100, ge=1)
    """Queries in the gallery."""


class HtmlReport(Report[HtmlOptions]):
    """One self-contained HTML page: board, plots, gallery, agreement and provenance of every task among the records."""

    name: ClassVar[str] = "html"
    summary: ClassVar[str] = "one self-contained page: board, plots, gallery, agreement, provenance"
    suffix: ClassVar[str] = ".html"
    Options = HtmlOptions

    def make(self, material: Material) -> bytes:
        """Return the page as UTF-8.

        Raises:
            UsageError: for a metric that no record has.
            AttrbenchError: where there is no record.
        """
        tables = rank_records(material.records, metric=material.metric).tables
        boards = [_section(table, f"t{number}", material, self.options) for number, table in enumerate(tables, start=1)]
        names = list(dict.fromkeys(section.board.task for section in boards))
        title = f"attrbench report: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        records = sum(len(table.ranked) + len(table.below) for table in tables)
        newest = max(record.created for record in material.records)
        return _page(
            "report.html", title=title, sections=boards, records=records, newest=shown(newest[:16].replace("T", " "))
        )


@dataclass(frozen=True)
class Section:
    """The part of a report on one leaderboard table; `anchor` begins the ids in it."""

    anchor: str
    board: Board
    pareto: list[Plot]
    curves: list[Plot]
    gallery: Gallery | None
    sheet: str
    strip: Strip | None
    differences: Differences | None
    agreement: Agreement | None
    criteria: list[Plot]
    provenance: list[Provenance]


def _section(table: Table, anchor: str, material: Material, options: HtmlOptions) -> Section:
    board = make_board(table, anchor)
    fingerprint = [*table.ranked, *table.below][0].record.task.fingerprint
    return Section(
        anchor=anchor,
        board=board,
        pareto=pareto_plots(table),
        curves=curve_plots(table),
        gallery=table_gallery(table, material.thumbnails.get(fingerprint), options.k, options.queries),
        sheet=f"thumbnails-{shown(fingerprint[:10])}.zip",
        strip=make_strip(table),
        differences=make_differences(table),
        agreement=make_agreement(table),
        criteria=criterion_plots(table),
        provenance=make_provenance(table, board),
    )


def attribution_page(queries: Items, train: Items, ranking: Ranking, heading: Heading, method: str) -> bytes:
    """Return a page with queries and the training images that a method ranks first for each, as UTF-8.

    Args:
        queries: the pictures that were asked about.
        train: the training set.
        ranking: [m, k] ids and scores, strongest first; ids of -1 are left out.
        heading: title, summary of the method, and warnings.
        method: label of the method.
    """
    return _page(
        "attribution.html",
        title=tidy(heading.title),
        summary=tidy(heading.summary),
        warnings=[tidy(warning) for warning in heading.warnings],
        meaning=MEANING,
        gallery=arrays_gallery(queries, train, ranking, tidy(method)),
    )


def _page(template: str, **values: object) -> bytes:
    """Return a page with its style and script, and the policy that allows these two and nothing else."""
    css, script = source("parts.css") + source("page.css"), source("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(css)}'; script-src '{_hash(script)}';"
        " base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    shared: Mapping[str, object] = {"css": css, "script": script, "policy": policy, "version": __version__}
    return environment().get_template(template).render(**shared, **values).encode()


def _hash(content: str) -> str:
    """Return the hash of an inline style or script as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
