"""Files that `attrbench attribute` writes: contact sheet, page and map of the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attrbench.errors import UsageError
from attrbench.reports.named_files import FORMATS, PAGES, check_file, encoded_for, page_paths, write_file, write_sheet
from attrbench.store.fingerprint import fingerprint

if TYPE_CHECKING:
    from attrbench.evaluation.attribution import Attributions
    from attrbench.reports.contact_sheet import ContactSheet

MAPPED = 4
"""Training images of whose scores `--evidence` draws a map."""


@dataclass(frozen=True)
class Written:
    """The files that were written.

    Attributes:
        sheets: pages of the contact sheet.
        html, evidence: page and map; None where they were not asked for.
    """

    sheets: Sequence[Path]
    html: Path | None = None
    evidence: Path | None = None

    @property
    def lines(self) -> list[str]:
        """Return what the terminal says of the files."""
        more = f" to {self.sheets[-1]} ({len(self.sheets)} pages)" if len(self.sheets) > 1 else ""
        others = [("page", self.html), ("map of the evidence", self.evidence)]
        return [f"contact sheet: {self.sheets[0]}{more}", *(f"{what}: {path}" for what, path in others if path)]


@dataclass(frozen=True)
class NamedFiles:
    """The files that the user names.

    Attributes:
        sheet: contact sheet; None for its default place.
        html, evidence: page and map; None for none.
        force: whether files that are there may be replaced.
    """

    sheet: Path | None
    html: Path | None
    evidence: Path | None
    force: bool

    def check(self, asked: Sequence[Path], folders: Sequence[Path]) -> None:
        """Raise an error if one can't be written, or is one of the pictures to attribute or among their folders.

        Raises:
            UsageError: one line that says what to do.
        """
        if self.html is not None:
            check_file("--html", self.html, self.force, PAGES)
        for option, path in (("--sheet", self.sheet), ("--evidence", self.evidence)):
            if path is not None:
                among = [path for folder in folders if path.resolve().is_relative_to(folder.resolve())]
                check_file(option, path, self.force, FORMATS, [*asked, *among])
        if self.sheet and self.evidence and self.sheet.resolve() == self.evidence.resolve():
            raise UsageError(f"--sheet and --evidence both name {self.sheet}: name two files")

    def check_stream(self) -> None:
        """Raise an error for files that a stream of answers does not write.

        Raises:
            UsageError: one line that says what to do.
        """
        for option, path in (("--html", self.html), ("--evidence", self.evidence)):
            if path is not None:
                raise UsageError(f"{option} needs all answers at once, and --format jsonl keeps none: leave out one")
        if self.sheet is not None:
            check_file("--sheet", page_paths(self.sheet, 1, after=0)[0], self.force)

    def write(self, answers: Attributions, sheet: ContactSheet, out: Path) -> Written:
        """Write all files, and return them.

        Args:
            answers: of the methods.
            sheet: their contact sheet.
            out: folder of the default contact sheet.

        Raises:
            UsageError: where one is there already, and must not be replaced.
            AttrbenchError: where one can't be written.
        """
        sheets = write_sheet(sheet, self.sheet or _default_sheet(answers, out), self.force or self.sheet is None)
        html = self.html and write_file("--html", self.html, answers.to_html().encode(), self.force)
        if self.evidence is None or answers.evidence is None:
            return Written(sheets, html)
        drawn = encoded_for(answers.evidence.picture(), self.evidence)
        return Written(sheets, html, write_file("--evidence", self.evidence, drawn, self.force))


def _default_sheet(answers: Attributions, out: Path) -> Path:
    """Return the file of the contact sheet of this question, methods and task; another question has another."""
    label = "+".join(answers.methods)
    name = "".join(c if c.isalnum() or c in "-_.=+" else "-" for c in label)[:80]
    first = answers[0]
    shown = [first.task, label, answers.queries.fingerprint, first.train.fingerprint]
    lowest = 0 if first.lowest is None else first.lowest.ids.shape[1]
    extra = [lowest, answers.subject.fingerprints["model"]] if lowest or answers.subject.checkpoint else []
    question = fingerprint([*shown, list(first.ranking.ids.shape), *extra])
    return out / first.task_name / f"attributed-{name}-{question[:8]}.png"
