"""The HTML report: one file with everything that records tell, which needs no network, no server and no task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from attrbench.contracts.options import Options
from attrbench.contracts.report import Material, Report
from attrbench.reports.html.agreement import Agreement, make_agreement
from attrbench.reports.html.board import Board, make_board
from attrbench.reports.html.gallery import Gallery, table_gallery
from attrbench.reports.html.plot import Plot
from attrbench.reports.html.plots import criterion_plots, curve_plots, pareto_plots
from attrbench.reports.html.provenance import Provenance, make_provenance
from attrbench.reports.html.queries import Differences, Strip, make_differences, make_strip
from attrbench.reports.html.templates import page
from attrbench.reports.leaderboard import rank_records
from attrbench.reports.ranking import Table
from attrbench.reports.table_cells import shown


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
        tables = rank_records(material.records, metric=material.metric, highlight=material.highlight).tables
        boards = [_section(table, f"t{number}", material, self.options) for number, table in enumerate(tables, start=1)]
        names = list(dict.fromkeys(section.board.task for section in boards))
        title = f"attrbench report: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        records = sum(len(table.ranked) + len(table.below) for table in tables)
        newest = max(record.created for record in material.records)
        return page(
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
