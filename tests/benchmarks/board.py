"""The leaderboard of 10,000 records on one task, as a whole command, against reading the same files as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from attrbench.contracts.record import MetricResult, Record, read_records, write_record
from tests.benchmarks.timing import Figure, seconds

RECORDS = 10_000
PUBLISHED = Path(__file__).parents[2] / "leaderboards" / "ddpm-mnist-mini"


def speed() -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder)
        command = [sys.executable, "-m", "attrbench", "leaderboard", name, "--format", "csv"]
        parsed = seconds(lambda: [json.loads(path.read_bytes()) for path in folder.rglob("*.json")])
        figures = []
        for what in ("the first time", "again"):
            taken = seconds(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))
            title = f"leaderboard of {RECORDS:,} records, {what}"
            figures.append(Figure(title, taken, "s", "json.loads of the files", parsed, taken / parsed))
        return figures


def _write(folder: Path) -> None:
    """Write records with the rates of published ones on queries drawn with replacement, so that no two are alike."""
    published = [record for record in read_records(PUBLISHED)[0] if record.status == "complete"]
    rng = np.random.default_rng(0)
    for number in range(RECORDS):
        write_record(_varied(published[number % len(published)], number, rng), folder)


def _varied(record: Record, number: int, rng: np.random.Generator) -> Record:
    drawn = rng.integers(0, len(record.query_groups), len(record.query_groups))
    metrics = [_redrawn(result, drawn) for result in record.metrics]
    options = {**record.method.options, "number": number}
    method = record.method.model_copy(update={"options": options, "label": f"{record.method.name}-{number}"})
    return record.model_copy(update={"metrics": metrics, "method": method, "tuned": None, "identity": f"{number:064x}"})


def _redrawn(result: MetricResult, drawn: np.ndarray) -> MetricResult:
    values = [result.per_query[place] for place in drawn]
    return result.model_copy(update={"per_query": values, "value": float(np.mean(values))})
