"""Answers of attribution: the training items that methods rank first and last for pictures, and how methods agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attrbench.contracts.ranking import Ranking
from attrbench.contracts.task import Items
from attrbench.data.near_duplicates import NearDuplicates
from attrbench.errors import unknown_name
from attrbench.evaluation.attribution_parts import Row, Subject, item_row
from attrbench.evaluation.meaningless import equal_line, lost_line
from attrbench.evaluation.question import Block
from attrbench.metrics.agreement import Agreement, agreement
from attrbench.reports.attribution_table import parts
from attrbench.reports.contact_sheet import ContactSheet, Heading, Strip
from attrbench.reports.html.attribution import Answered, Answers, attribution_fragment, attribution_page
from attrbench.reports.named_files import encoded
from attrbench.reports.printed import printed

if TYPE_CHECKING:
    from attrbench.evaluation.evidence_map import EvidenceMap

NO_LOWEST = "it gives its top items only, so it has no lowest scores"


@dataclass(frozen=True, repr=False)
class Attribution:
    """The training items that a method ranks first for given images; a notebook shows them with their pictures.

    Attributes:
        subject: what was asked: task, model and data.
        method: label of the method; `method_version` its version, `settings` its options and what its gradients are
            taken at (timesteps, noise); `summary` says it in one line.
        queries: the pictures, as the model saw them.
        train: the training set.
        ranking: [m, k] ids and scores, strongest first; ids of -1 for a query whose scores are all equal.
        lowest: [m, l] ids and scores, lowest first; None for a method that gives no scores of all items.
        scores: [m, n] scores of all training items; None for such a method.
        nonfinite: (split, item, timestep) of every gradient that was NaN or infinite.
        faults: query -> why it has no ranking, where queries are answered one by one.
        near: finds near-duplicates among the training items; None where each is listed for itself.
        wants_lowest: whether the lowest scores were asked for.
        evidence: where in the picture the scores of the first items come from; None where it was not asked for.
    """

    subject: Subject
    method: str
    method_version: int
    settings: Mapping[str, Any]
    queries: Items
    train: Items
    ranking: Ranking
    nonfinite: Sequence[tuple[str, int, float]]
    summary: str = ""
    lowest: Ranking | None = None
    scores: NDArray[np.float32] | None = None
    faults: Mapping[int, str] = field(default_factory=dict)
    near: NearDuplicates | None = None
    wants_lowest: bool = False
    evidence: EvidenceMap | None = None

    @property
    def task(self) -> str:
        """Return the task's label."""
        return self.subject.task

    @property
    def task_name(self) -> str:
        """Return the task's name, without options."""
        return self.subject.task_name

    @property
    def warnings(self) -> list[str]:
        """Return why scores mean less than they seem to, a line each; empty where all is well."""
        lines = [lost_line(self.nonfinite)] if self.nonfinite else []
        equal = np.flatnonzero((self.ranking.ids < 0).all(axis=1)).tolist()
        return lines + ([equal_line(equal, len(self.queries))] if equal and not self.faults else [])

    @property
    def notes(self) -> list[str]:
        """Return what was asked for and can't be had, a line each."""
        return [f"{self.method}: {NO_LOWEST}"] if self.wants_lowest and self.lowest is None else []

    def rows(self, query: int, lowest: bool = False) -> list[Row]:
        """Return the training items found for a query, near-duplicates under the first of them.

        Args:
            query: its number.
            lowest: those with the lowest scores, instead of the highest.
        """
        ranking = self.lowest if lowest else self.ranking
        if ranking is None:
            return []
        found = [
            (rank, int(item), float(score))
            for rank, (item, score) in enumerate(zip(ranking.ids[query], ranking.scores[query], strict=True), start=1)
            if item >= 0
        ]
        items = [item for _, item, _ in found]
        first = items if self.near is None else self.near.first_of(items)
        groups: dict[int, list[tuple[int, int, float]]] = {}
        for entry, head in zip(found, first, strict=True):
            groups.setdefault(head, []).append(entry)
        return [Row(*entries[0], tuple(entries[1:])) for entries in groups.values()]

    def item_rows(self, query: int, lowest: bool = False) -> list[dict[str, Any]]:
        """Return a dict (rank, score, item, name, group, caption) for each training item that was found for one query.

        An item some of whose gradients were NaN or infinite has `lost` as well, their number. A near-duplicate of an
        item further up has `duplicate_of`, that item.
        """
        lost = Counter(item for split, item, _ in self.nonfinite if split == "train")
        found = self.rows(query, lowest)
        rows = [item_row(self.train, row.rank, row.item, row.score, lost) for row in found]
        rows += [
            item_row(self.train, *entry, lost) | {"duplicate_of": row.item} for row in found for entry in row.duplicates
        ]
        return sorted(rows, key=lambda row: int(row["rank"]))

    def strips(self, titled: bool) -> list[Strip]:
        """Return what a contact sheet draws of this answer: the highest-ranked items, and the lowest if wanted."""
        name = f"by {self.method}" if titled else ""
        strips = [Strip(self.ranking, name, self._alike(lowest=False))]
        if self.lowest is not None and self.lowest.ids.shape[1]:
            strips.append(Strip(self.lowest, f"lowest {name}".strip(), self._alike(lowest=True)))
        return strips

    def _alike(self, lowest: bool) -> list[dict[int, list[int]]]:
        """Return for each query place in the ranking -> places of the near-duplicates that its picture stands for."""
        return [
            {row.rank - 1: [rank - 1 for rank, _, _ in row.duplicates] for row in self.rows(query, lowest)}
            for query in range(len(self.queries))
        ]

    @property
    def answered(self) -> Answered:
        """Return what a page tells of the method."""
        return Answered(self.method, self.method_version, self.summary, self.settings, len(self.nonfinite))

    @property
    def _together(self) -> Attributions:
        numbers = tuple(range(len(self.queries)))
        return Attributions([self], Block(0, len(numbers), self.queries, numbers, {}), self.subject)

    def to_html(self) -> str:
        """Return a self-contained page with the pictures and everything that was found, as `--html` writes it."""
        return self._together.to_html()

    def sheet(self) -> ContactSheet:
        """Return the pages of the contact sheet: each query with its top-ranked training images."""
        return self._together.sheet()

    def picture(self) -> Image.Image:
        """Return the contact sheet's first page as an image; `sheet()` has all of them."""
        return self.sheet()[0]

    def _repr_html_(self) -> str:
        return self._together._repr_html_()

    def _repr_png_(self) -> bytes:
        return encoded(self.picture())

    def __str__(self) -> str:
        return str(self._together)

    def __repr__(self) -> str:
        return f"<Attribution of {_pictures(self.queries)} on {self.subject} by {self.method}: k = {_depth(self)}>"


class Attributions(Sequence[Attribution]):
    """The answers of several methods to one question, side by side; a notebook shows them with their pictures.

    An answer is found by its number or by its method's label.

    Args:
        answers: of each method, about the same pictures.
        block: the pictures.
        subject: task, model and data.
    """

    def __init__(self, answers: Sequence[Attribution], block: Block, subject: Subject) -> None:
        self._answers = list(answers)
        self.block = block
        self.subject = subject

    @property
    def methods(self) -> list[str]:
        """Return the labels of the methods, in the order in which they were asked."""
        return [answer.method for answer in self._answers]

    @property
    def queries(self) -> Items:
        """Return the pictures, as the model saw them."""
        return self.block.items

    @property
    def warnings(self) -> list[str]:
        """Return why scores mean less than they seem to, a line each; with several methods, each line names one."""
        return [self._named(answer, line) for answer in self for line in answer.warnings]

    @property
    def notes(self) -> list[str]:
        """Return what was asked for and can't be had, a line each."""
        return [line for answer in self for line in answer.notes]

    def _named(self, answer: Attribution, line: str) -> str:
        return line if len(self) == 1 else f"{answer.method}: {line}"

    @cached_property
    def agreement(self) -> list[Agreement]:
        """Return the agreement of every two methods; empty for one method."""
        return [
            agreement((a.method, b.method), (a.ranking.ids, b.ranking.ids), (a.scores, b.scores))
            for a, b in combinations(self._answers, 2)
        ]

    @property
    def evidence(self) -> EvidenceMap | None:
        """Return where in the picture the first items' scores come from, by the method that was asked for it."""
        return next((answer.evidence for answer in self if answer.evidence is not None), None)

    def _heading(self, about: str = "") -> Heading:
        several = len(self) > 1
        title = f"Method{'s' if several else ''} {', '.join(self.methods)}, task {self.subject}{about}"
        summary = "; ".join(f"{answer.method}: {answer.summary}" if several else answer.summary for answer in self)
        return Heading(title, summary, [*self.warnings, *self.notes])

    def sheet(self, about: str = "") -> ContactSheet:
        """Return the pages of the contact sheet: each query with the top-ranked training images of every method.

        Args:
            about: what the title says beside methods and task, such as which queries these are.
        """
        strips = [strip for answer in self for strip in answer.strips(titled=len(self) > 1)]
        return ContactSheet(self.queries, self[0].train, strips, self._heading(about))

    def to_html(self) -> str:
        """Return a self-contained page with the pictures and everything that was found, as `--html` writes it."""
        return attribution_page(self._shown()).decode()

    def _shown(self) -> Answers:
        """Return what a page shows."""
        evidence = self.evidence
        return Answers(
            self.queries,
            self[0].train,
            [strip for answer in self for strip in answer.strips(titled=True)],
            self._heading(),
            [answer.answered for answer in self],
            self.agreement,
            self.subject.facts(self.queries),
            None if evidence is None else (encoded(evidence.picture()), evidence.words),
        )

    def picture(self) -> Image.Image:
        """Return the contact sheet's first page as an image; `sheet()` has all of them."""
        return self.sheet()[0]

    def _repr_html_(self) -> str:
        return attribution_fragment(self._shown()) if len(self) else "<p>no answers</p>"

    def _repr_png_(self) -> bytes:
        return encoded(self.picture())

    @overload
    def __getitem__(self, index: int | str) -> Attribution: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Attribution]: ...

    def __getitem__(self, index: int | str | slice) -> Attribution | Sequence[Attribution]:
        """Return the answer of a method, by number or label.

        Raises:
            UsageError: for a label that no method has.
        """
        if not isinstance(index, str):
            return self._answers[index]
        if index not in self.methods:
            raise unknown_name("method among the answers", index, self.methods)
        return self._answers[self.methods.index(index)]

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[Attribution]:
        return iter(self._answers)

    def __str__(self) -> str:
        return printed(*parts(self)) if len(self) else repr(self)

    def __repr__(self) -> str:
        named = ", ".join(self.methods)
        return f"<Attributions of {_pictures(self.queries)} on {self.subject} by {named}>"


def _pictures(queries: Items) -> str:
    return f"{len(queries)} {'picture' if len(queries) == 1 else 'pictures'}"


def _depth(answer: Attribution) -> int:
    return int(answer.ranking.ids.shape[1])
