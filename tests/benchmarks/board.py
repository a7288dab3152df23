"""The leaderboard of 10,000 records, on 20 tasks and on one, as a whole command, against reading the files as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from attrbench.contracts.record import MetricResult, Record, read_records, write_record
from tests.benchmarks.timing import Figure, seconds

RECORDS = 10_000
PUBLISHED = Path(__file__).parents[2] / "leaderboards" / "ddpm-mnist-mini"


def speed() -> list[Figure]:
    return [figure for tasks, formats in ((20, ("csv", "md", "rich")), (1, ("csv",))) for figure in _of(tasks, formats)]


def _of(tasks: int, formats: Sequence[str]) -> Iterator[Figure]:
    """Yield the time of the command in each format, for records that are spread over so many tasks."""
    with tempfile.TemporaryDirectory() as name:
        _write(Path(name), tasks)
        parsed = seconds(lambda: [json.loads(path.read_bytes()) for path in Path(name).rglob("*.json")])
        for format_ in formats:
            command = [sys.executable, "-m", "attrbench", "leaderboard", name, "--format", format_]
            taken = seconds(lambda words=command: subprocess.run(words, stdout=subprocess.DEVNULL, check=True))
            title = f"leaderboard of {RECORDS:,} records on {tasks} task{'s' * (tasks > 1)}, as {format_}"
            yield Figure(title, taken, "s", "json.loads of the files", parsed, taken / parsed)


def _write(folder: Path, tasks: int) -> None:
    """Write records with the rates of published ones on queries drawn with replacement, so that no two are alike."""
    published = [record for record in read_records(PUBLISHED)[0] if record.status == "complete"]
    rng = np.random.default_rng(0)
    for number in range(RECORDS):
        record = _varied(published[number % len(published)], number, rng)
        task = record.task.model_copy(update={"name": f"task-{number % tasks}"})
        write_record(record.model_copy(update={"task": task}), folder)


def _varied(record: Record, number: int, rng: np.random.Generator) -> Record:
    drawn = rng.integers(0, len(record.query_groups), len(record.query_groups))
    metrics = [_redrawn(result, drawn) for result in record.metrics]
    options = {**record.method.options, "number": number}
    method = record.method.model_copy(update={"options": options, "label": f"{record.method.name}-{number}"})
    return record.model_copy(update={"metrics": metrics, "method": method, "tuned": None, "identity": f"{number:064x}"})


def _redrawn(result: MetricResult, drawn: np.ndarray) -> MetricResult:
    values = [result.per_query[place] for place in drawn]
    return result.model_copy(update={"per_query": values, "value": float(np.mean(values))})
