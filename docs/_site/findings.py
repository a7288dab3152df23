"""Numbers in the sentences of pages, made of the published records; and what those sentences say of two runs.

`findings.toml` has, for each page, pieces of its sentences with fields for their numbers, and claims.
`tests/test_findings.py` compares them with the records, and writes the numbers.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from attrbench.contracts.record import MetricResult, Record
from attrbench.ground_truth.linear_datamodeling import METRIC
from attrbench.plugins.registry import Registry
from attrbench.reports.compare import compare_records
from attrbench.reports.criteria import criteria_of
from attrbench.reports.ranking import Table
from attrbench.reports.table_cells import metric_text, value_text
from docs._site.default_runs import default_runs

FILE = Path(__file__).with_name("findings.toml")
FIELD = re.compile(r"\{([^{}]+)\}")
NUMBER = r"-?\d+(?:\.\d+)?"
SHOWN = rf"({NUMBER}(?: \[{NUMBER}, {NUMBER}\])?)"
"""What stands for a field on a page: a number, with an interval or without."""
INTERVAL = "interval"

T = TypeVar("T")


@dataclass(frozen=True)
class Findings:
    """What is said on one page.

    Attributes:
        numbers: pieces of sentences, each once on the page, with a field in braces for each number.
        claims: `BOARD: RUN > RUN [METRIC]`, the first is better and told apart; `=`: they are not told apart.
            `BOARD: RUN = 0 [METRIC]`: the interval holds 0; `>`: it lies above.
    """

    numbers: Sequence[str] = ()
    claims: Sequence[str] = ()


def read_findings(path: Path = FILE) -> Mapping[str, Findings]:
    """Return the findings by page, as a path from the root of the repository."""
    return {page: Findings(**told) for page, told in tomllib.loads(path.read_text(encoding="utf-8")).items()}


class Boards:
    """The published boards, asked for numbers and claims by short texts.

    A board is named by the beginning of its task's name, a run by its label or, at its method's defaults, by the
    method's name. Fields, where METRIC is `lds` unless given, and `interval` at the end adds the 95% interval:

        BOARD RUN [METRIC]           a value
        BOARD RUN - RUN [METRIC]     the difference of two runs, query by query
        BOARD RUN / RUN [METRIC]     the ratio of two values
        BOARD METRIC ~ METRIC        the rank correlation of two metrics over the runs of the board
        BOARD ceiling [METRIC]       what the noise of training allows
        BOARD fact NAME              a fact that the records of the board share

    Args:
        tables: the boards.
        registry: the plugins, which know the methods' defaults.
    """

    def __init__(self, tables: Sequence[Table], registry: Registry) -> None:
        self._tables = tables
        self._runs = {table.task: _named_runs(table, registry) for table in tables}

    def text(self, field: str) -> str:
        """Return what stands on the page for a field, such as "0.443 [0.376, 0.510]".

        Raises:
            ValueError: where the field names a board, run or metric that there is not.
        """
        board, *words = field.split()
        table = self._table(board)
        with_interval = words[-1] == INTERVAL
        if with_interval:
            words.pop()
        match words:
            case [first, "~", second]:
                found = criteria_of(table, [first, second])
                both = {} if found is None else found.agreements
                agreement = both.get((first, second), both.get((second, first)))
                if agreement is None or agreement.low is None or agreement.high is None:
                    raise ValueError(f"{field}: too few runs")
                return _shown(agreement.value, (agreement.low, agreement.high) if with_interval else None, digits=2)
            case ["ceiling", *metric]:
                results = [run.metric(*(metric or (METRIC,))) for run in self._runs[table.task].values()]
                return _the_only({f"{result.ceiling:.3f}" for result in results if result is not None}, field)
            case ["fact", name]:
                values = [run.facts[name] for run in self._runs[table.task].values() if name in run.facts]
                return _the_only({f"{v:g}" if float(v).is_integer() else f"{v:.3f}" for v in values}, field)
            case [first, ("-" | "/") as sign, second, *metric]:
                one, other = self._run(table, first), self._run(table, second)
                if sign == "/":
                    return f"{_result(one, *metric).value / _result(other, *metric).value:.1f}"
                value, interval, _ = _difference(one, other, *metric)
                return _shown(value, interval if with_interval else None)
            case [run, *metric]:
                result = _result(self._run(table, run), *metric)
                return metric_text(result) if with_interval else value_text(result)
        raise ValueError(f"{field}: no field")

    def holds(self, claim: str) -> bool:
        """Return whether the records bear a claim out.

        Raises:
            ValueError: where the claim names a board, run or metric that there is not, or is none.
        """
        board, _, rest = claim.partition(": ")
        match rest.split():
            case [run, (">" | "=") as sign, "0", *metric]:
                result = _result(self._run(self._table(board), run), *metric)
                if result.low is None or result.high is None:
                    raise ValueError(f"{claim}: no interval")
                return result.low > 0 if sign == ">" else result.low <= 0 <= result.high
            case [first, (">" | "=") as sign, second, *metric]:
                table = self._table(board)
                _, _, better = _difference(self._run(table, first), self._run(table, second), *metric)
                return better == ("A" if sign == ">" else "")
        raise ValueError(f"{claim}: no claim")

    def _table(self, board: str) -> Table:
        return _the_only([table for table in self._tables if table.task.startswith(board)], board)

    def _run(self, table: Table, name: str) -> Record:
        try:
            return self._runs[table.task][name]
        except KeyError:
            raise ValueError(f"{name} is not on the board of {table.task}") from None


def _named_runs(table: Table, registry: Registry) -> dict[str, Record]:
    """Return the runs of a board by label; those at their methods' defaults by the method's name, too."""
    rows = default_runs(table, registry) | {row.record.method.label: row for row in [*table.ranked, *table.below]}
    return {name: row.record for name, row in rows.items()}


def _the_only(found: Collection[T], name: str) -> T:
    if len(found) != 1:
        raise ValueError(f"{name}: {len(found)} found where one is meant")
    return next(iter(found))


def _shown(value: float, interval: tuple[float, float] | None, digits: int = 3) -> str:
    texts = [f"{number:.{digits}f}" for number in (value, *(interval or ()))]
    return texts[0] if interval is None else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _result(record: Record, metric: str = METRIC) -> MetricResult:
    found = record.metric(metric)
    if found is None:
        raise ValueError(f"{record.method.label} has no {metric}")
    return found


def _difference(one: Record, other: Record, metric: str = METRIC) -> tuple[float, tuple[float, float] | None, str]:
    (found,) = compare_records(one, other, [metric], 0).differences
    return found.value, found.interval, found.better


def on_page(piece: str) -> re.Pattern[str]:
    """Return the pattern of a piece on a page, whatever numbers stand there and wherever lines end."""
    parts = FIELD.split(piece)
    texts = [r"\s+".join(map(re.escape, re.split(r"\s+", text))) for text in parts[::2]]
    return re.compile(SHOWN.join(texts))


def rewritten(page: str, piece: str, boards: Boards) -> str:
    """Return a page's text with the records' numbers in a piece of a sentence, and all else as it was.

    Raises:
        ValueError: where the piece is not on the page, or more than once.
    """
    found = list(on_page(piece).finditer(page))
    if len(found) != 1:
        raise ValueError(f"'{piece}' stands on the page {len(found)} times, not once")
    text, end = "", 0
    for place, field in enumerate(FIELD.findall(piece), start=1):
        start, stop = found[0].span(place)
        text, end = text + page[end:start] + boards.text(field), stop
    return text + page[end:]
