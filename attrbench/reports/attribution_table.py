"""Answers of attribution as tables of text, for a terminal; text of data sets is never interpreted as markup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from attrbench.contracts.ranking import Ranking
from attrbench.contracts.task import Items
from attrbench.evaluation.attribution_parts import Row, Subject
from attrbench.metrics.agreement import Agreement
from attrbench.reports.contact_sheet import MEANING, MEANING_OF_SEVERAL
from attrbench.text import one_line

LONGEST = 200
"""Characters of a name or caption that the terminal shows."""
ABREAST = 3
"""Methods whose items and scores stand side by side, within 80 columns."""
NAME = 12
"""Characters of a method's name over its columns."""
NOT_RANKED = "not ranked: all training items have the same score\n"


class Answer(Protocol):
    """The parts of one method's answer that tables show (`attrbench.evaluation.attribution.Attribution`)."""

    @property
    def method(self) -> str:
        """Return the method's label."""

    @property
    def summary(self) -> str:
        """Return what the method says in one line."""

    @property
    def subject(self) -> Subject:
        """Return task, model and data."""

    @property
    def queries(self) -> Items:
        """Return the pictures that were asked about."""

    @property
    def ranking(self) -> Ranking:
        """Return ids and scores, strongest first."""

    @property
    def lowest(self) -> Ranking | None:
        """Return ids and scores, lowest first; None where there are none."""

    @property
    def wants_lowest(self) -> bool:
        """Return whether the lowest scores were asked for."""

    def rows(self, query: int, lowest: bool = False) -> list[Row]:
        """Return the training items found for a query."""

    def item_rows(self, query: int, lowest: bool = False) -> list[dict[str, Any]]:
        """Return the training items found for a query as dicts."""


class Answers(Protocol):
    """The parts of several methods' answers that tables show (`attrbench.evaluation.attribution.Attributions`)."""

    @property
    def methods(self) -> list[str]:
        """Return the labels of the methods."""

    @property
    def subject(self) -> Subject:
        """Return task, model and data."""

    @property
    def queries(self) -> Items:
        """Return the pictures that were asked about."""

    @property
    def agreement(self) -> list[Agreement]:
        """Return the agreement of every two methods."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Answer]: ...


def parts(answers: Answers) -> Iterator[RenderableType]:
    """Yield the answers of one method in full, or those of several side by side with their agreement, for rich."""
    if len(answers) == 1:
        (answer,) = answers
        yield Text(f"{one_line(answer.method)} on {one_line(answer.subject)}: {one_line(answer.summary)}")
        yield Text(MEANING)
        for query in range(len(answer.queries)):
            yield from _tables_of_one(answer, query)
        return
    names = short_names(list(answers))
    yield Text(f"{len(answers)} methods on {one_line(answers.subject)}")
    for name, answer in zip(names, answers, strict=True):
        label = "" if name == answer.method else f" is {one_line(answer.method)}"
        yield Text(f"  {name}{label}: {one_line(answer.summary)}")
    yield Text(MEANING_OF_SEVERAL)
    for query in range(len(answers.queries)):
        for first in range(0, len(answers), ABREAST):
            part = slice(first, first + ABREAST)
            yield from _tables_of_several(list(answers)[part], names[part], query)
    yield _agreement(answers, names)


def short_names(answers: Sequence[Answer]) -> list[str]:
    """Return a name for each method that fits over its columns: without options; numbered, where that is ambiguous."""
    names = [one_line(answer.method).partition(":")[0][:NAME] for answer in answers]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name[: NAME - 3]} {number}" for number, name in enumerate(names, start=1)]


def _title(answer: Answer, query: int) -> str:
    name, prompt = answer.queries.names[query], answer.queries.prompts[query]
    return _cut(name + (f": {prompt}" if prompt and prompt not in name else ""))


def _tables_of_one(answer: Answer, query: int) -> Iterator[Table | Text]:
    """Yield the table of a query's highest-scored items, and that of the lowest-scored where they are wanted."""
    yield _table_of_one(answer, query, _title(answer, query), lowest=False)
    if not (answer.ranking.ids[query] >= 0).any():
        yield Text(NOT_RANKED)
    elif answer.lowest is not None and answer.wants_lowest:
        yield _table_of_one(answer, query, f"{_title(answer, query)}: lowest scores", lowest=True)


def _table_of_one(answer: Answer, query: int, title: str, lowest: bool) -> Table:
    alike = {row.rank: _alike(row) for row in answer.rows(query, lowest)}
    rows = [row | {"alike": alike[row["rank"]]} for row in answer.item_rows(query, lowest) if row["rank"] in alike]
    columns = [
        column
        for column in ("rank", "score", "lost", "item", "alike", "name", "group", "caption")
        if any(row.get(column, "") != "" for row in rows)
    ]
    table = _table(title)
    for column in columns:
        table.add_column(
            column, justify="right" if column in ("rank", "score", "lost", "item") else "left", overflow="fold"
        )
    for row in rows:
        cells = {"lost": 0, **row, "score": f"{row['score']:.6g}"}
        table.add_row(*(Text(_cut(cells[column])) for column in columns))
    return table


def _alike(row: Row) -> str:
    """Return the near-duplicates of an item as text: their number, and the first of them."""
    if not row.duplicates:
        return ""
    items = [str(item) for _, item, _ in row.duplicates]
    more = f" and {len(items) - 4} more" if len(items) > 4 else ""
    return f"+{len(items)}: {', '.join(items[:4])}{more}"


def _tables_of_several(answers: Sequence[Answer], names: Sequence[str], query: int) -> Iterator[Table]:
    """Yield a table with the items and scores of several methods for a query, and that of the lowest ones if wanted."""
    title = _title(answers[0], query)
    yield _table_of_several(answers, names, query, title, lowest=False)
    if any(answer.wants_lowest and answer.lowest is not None for answer in answers):
        yield _table_of_several(answers, names, query, f"{title}: lowest scores", lowest=True)


def _table_of_several(answers: Sequence[Answer], names: Sequence[str], query: int, title: str, lowest: bool) -> Table:
    table = _table(title)
    table.add_column("\nrank", justify="right")
    for name in names:
        table.add_column(f"{name}\nitem", justify="right")
        table.add_column("\nscore", justify="left")
    rows = [answer.rows(query, lowest) for answer in answers]
    for place in range(max(map(len, rows))):
        cells = [cell for found in rows for cell in _cells(found, place)]
        table.add_row(str(place + 1), *(Text(cell) for cell in cells))
    return table


def _cells(rows: Sequence[Row], place: int) -> tuple[str, str]:
    if place >= len(rows):
        return "", ""
    row = rows[place]
    alike = f" +{len(row.duplicates)}" if row.duplicates else ""
    return f"{row.item}{alike}", f"{row.score:.4g}"


def _agreement(answers: Answers, names: Sequence[str]) -> Table:
    """Return a table of how far every two methods agree, on average over the queries."""
    short = dict(zip(answers.methods, names, strict=True))
    pairs = answers.agreement
    count = len(answers.queries)
    table = _table(f"agreement, mean of {count} queries" if count > 1 else "agreement")
    depth = max(pair.k for pair in pairs)
    for column in ("methods", "Spearman, all items", f"overlap@{depth}", "rank-biased overlap"):
        table.add_column(column, justify="left" if column == "methods" else "right")
    for pair in pairs:
        means = ("n/a" if value is None else f"{value:.3f}" for value in pair.means().values())
        table.add_row(Text(f"{short[pair.first]}, {short[pair.second]}"), *means)
    return table


def _table(title: str) -> Table:
    return Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")


def _cut(text: object) -> str:
    """Return a text on one line, with an ellipsis after `LONGEST` characters; JSON has the whole."""
    line = one_line(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
