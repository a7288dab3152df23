"""The reproduction of a suite: plan, run, lay out, and write as text, page or picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attrbench.contracts.record import Record
from attrbench.errors import AttrbenchError, UsageError
from attrbench.files import write_atomically
from attrbench.plugins import registry as plugins
from attrbench.reports.contact_sheet import ContactSheet
from attrbench.reports.html.gallery import Gallery
from attrbench.reports.html.plot import Plot
from attrbench.reports.html.templates import page, plot_picture
from attrbench.reports.named_files import FORMATS, encoded_for, page_paths
from attrbench.reports.table_cells import shown
from attrbench.suites.effect import effect_parts, effect_plots
from attrbench.suites.gallery import contact_sheets, gallery_parts, html_galleries, shown_queries
from attrbench.suites.layouts import LAYOUTS
from attrbench.suites.plan import Needed, plan
from attrbench.suites.read import Suite
from attrbench.suites.runs import RunOptions, Runs, kept_runs, run_needed
from attrbench.suites.table import Part, SuiteTable, to_csv, to_json, to_markdown
from attrbench.suites.terminal import to_text
from attrbench.suites.world import SuiteWorld
from attrbench.text import one_line

TEXTS: dict[str, Callable[[SuiteTable], str]] = {
    ".md": to_markdown,
    ".csv": to_csv,
    ".json": to_json,
    ".txt": lambda table: to_text(table, None),
}
"""Ending of a file -> the function that makes a table's text."""


@dataclass(frozen=True)
class Reproduced:
    """A suite's table, with its plots, contact sheets and galleries where its layout has them.

    Attributes:
        table: the table.
        problems: why values are missing from it.
        plots, sheets, galleries: for pictures and pages.
    """

    table: SuiteTable
    problems: Sequence[str]
    plots: Sequence[Plot] = ()
    sheets: Sequence[ContactSheet] = ()
    galleries: Sequence[tuple[str, Gallery]] = ()


def plan_suite(suite: Suite, scale: str, task_options: Sequence[str] = ()) -> list[Needed]:
    """Return what a suite needs at a scale; raises as `attrbench.suites.plan.plan`."""
    return plan(plugins.registry(), suite, scale, task_options)


def plan_lines(suite: Suite, scale: str, needed: Sequence[Needed]) -> Iterator[str]:
    """Yield lines on what a suite runs at a scale, and what that takes."""
    yield f"{suite.name}: {suite.file.title}, at the scale '{scale}'"
    for line in suite.file.scales[scale].needs:
        yield f"  needs {line}"
    for each in needed:
        yield f"{each.table.name}: {each.request.label}, {len(each.methods)} methods"
        yield from (f"  -m {text}" for text in each.methods)


def reproduce(suite: Suite, scale: str, needed: Sequence[Needed], options: RunOptions) -> Reproduced:
    """Run what a suite lacks (nothing, where records are given) and lay its table out.

    Raises:
        AttrbenchError: where no task could be run, or the given folders have no record of the suite.
    """
    runs = _runs(suite, needed, options)
    world = SuiteWorld(suite, scale, needed, runs, options)
    layout = suite.file.layout
    if layout == "gallery":
        queries = list(shown_queries(world))
        table = _table(world, gallery_parts(queries))
        return Reproduced(table, runs.problems, (), contact_sheets(queries), html_galleries(queries))
    if layout == "effect":
        parts = effect_parts(world)
        return Reproduced(_table(world, parts), runs.problems, effect_plots(parts))
    return Reproduced(_table(world, LAYOUTS[layout](world)), runs.problems)


def _runs(suite: Suite, needed: Sequence[Needed], options: RunOptions) -> Runs:
    if not any(each.methods for each in needed):
        return Runs()
    if options.records:
        return kept_runs(needed, options.records)
    return run_needed(needed, replace(options, scores=suite.file.layout == "gallery" and suite.file.least > 0))


def _table(world: SuiteWorld, parts: Sequence[Part]) -> SuiteTable:
    suite, paper = world.suite, world.suite.table
    notes = [f"[{number}] {text}" for number, text in enumerate(world.footnotes.values(), start=1)]
    notes += [f"The paper's numbers: {paper.note}"] if paper.note else []
    if suite.file.layout == "time" and any(record.hardware.is_busy for record in world.runs.found.values()):
        notes.append("Times with ~: other processes kept more than a quarter of the cores busy meanwhile.")
    notes += [f"Missing: {problem}" for problem in world.runs.problems]
    return SuiteTable(
        title=f"{suite.file.title} ({suite.paper.cite}, {paper.version}: {paper.place})",
        about=[suite.file.scales[world.scale].about, *_about_tasks(world)],
        parts=parts,
        notes=notes,
        interval="p95" if suite.file.layout == "time" else "95%",
        scale=world.scale,
        records=sorted({record.identity for record in world.runs.found.values()}),
    )


def _about_tasks(world: SuiteWorld) -> Iterator[str]:
    """Yield a line on each task that ran: what it stands for, its size and the machine."""
    for each in world.needed:
        records = [record for (task, _), record in world.runs.found.items() if task == each.table.paper]
        if records:
            machines = ", ".join(dict.fromkeys(shown(record.hardware.times_class) for record in records))
            yield f"{each.table.name}: {each.request.label}, {_size(records[0])}, {machines}"


def _size(record: Record) -> str:
    coverage, groups = record.coverage, record.query_groups
    counts = {groups.count(group) for group in set(groups) if group}
    each = f" ({counts.pop()} a group)" if len(counts) == 1 and len(set(groups)) > 1 else ""
    return f"{coverage.train_items:,} training items, {coverage.queries} queries{each}"


def check_file(path: Path, suite: Suite) -> None:
    """Raise a UsageError where a suite can't be written to a file of this ending, before anything is run."""
    endings = [*TEXTS, ".html"]
    endings += [".svg"] if suite.file.layout == "effect" else [*FORMATS] if suite.file.layout == "gallery" else []
    if path.suffix.lower() not in endings:
        raise UsageError(f"-o {one_line(path)}: suite {suite.name} is written to files ending in {', '.join(endings)}")


def write(made: Reproduced, path: Path) -> list[Path]:
    """Write a suite's table or picture to a file by its ending, and return the paths.

    Raises:
        AttrbenchError: where it can't be written, or there is nothing to draw.
    """
    files = _files(made, path)
    if not files:
        raise AttrbenchError(f"{one_line(path)}: there is nothing to draw: {'; '.join(made.problems) or 'no values'}")
    for file, content in files.items():
        try:
            write_atomically(file, content)
        except OSError as error:
            raise AttrbenchError(f"cannot write {one_line(file)}: {error.strerror}; name another file") from None
    return list(files)


def _files(made: Reproduced, path: Path) -> dict[Path, bytes]:
    """Return path -> content of the files of a suite: one, or one for each plot or contact sheet."""
    ending = path.suffix.lower()
    if ending in TEXTS:
        return {path: TEXTS[ending](made.table).encode()}
    if ending == ".html":
        return {path: _page(made)}
    if ending == ".svg":
        pictures = [plot_picture(plot) for plot in made.plots]
    else:
        pictures = [encoded_for(picture, path) for sheet in made.sheets for picture in sheet]
    return dict(zip(page_paths(path, len(pictures)), pictures, strict=True)) if pictures else {}


def _page(made: Reproduced) -> bytes:
    values = {"table": made.table, "plots": made.plots, "galleries": made.galleries}
    return page("suite.html", title=made.table.title, **values)
