"""The command `attrbench run`, which runs methods on tasks and writes their records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attrbench import api
from attrbench.cli.common import (
    RESULTS,
    Backend,
    BatchSize,
    Cache,
    Debug,
    Device,
    Executor,
    GroundTruths,
    LimitQueries,
    LimitTrain,
    Out,
    ReadCache,
    Rerun,
    Seed,
    Tasks,
)
from attrbench.reports.quantities import human_bytes, human_seconds
from attrbench.reports.table_cells import interval_text, method_text, ranking_results, shown, storage_text
from attrbench.text import plain

if TYPE_CHECKING:
    from attrbench.contracts.record import MetricResult, Record
    from attrbench.evaluation.task_run import Result


def run(
    method: Annotated[
        list[str],
        typer.Option(
            "--method",
            "-m",
            help="NAME or NAME:KEY=VALUE,...; a|b sweeps; 'all' for every method, 'all:without=a|b' for all but some.",
        ),
    ],
    task: Tasks,
    limit_train: LimitTrain = None,
    limit_queries: LimitQueries = None,
    device: Device = None,
    seed: Seed = 0,
    out: Out = RESULTS,
    cache: Cache = None,
    read_cache: ReadCache = None,
    batch_size: BatchSize = None,
    backend: Backend = "hooks",
    executor: Executor = "inline",
    ground_truth: GroundTruths = None,
    rerun: Rerun = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is there already and the plan of the rest, and stop.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run methods on tasks. What is already computed is not computed again: the same command resumes."""
    exit_code = ExitCode()
    api.run(
        method,
        task,
        out=out,
        cache=cache,
        read_cache=read_cache,
        device=device,
        seed=seed,
        limit_train=limit_train,
        limit_queries=limit_queries,
        executor=executor,
        rerun=rerun,
        batch_size=batch_size,
        backend=backend,
        dry_run=dry_run,
        ground_truths=tuple(ground_truth or ()),
        keep_scores=False,
        on_result=exit_code.show,
    )
    exit_code.leave()


class ExitCode:
    """Prints results as they come, and keeps the command's exit code: 1 if one failed, 3 if one is partial."""

    def __init__(self) -> None:
        self._statuses: set[str] = set()

    def show(self, result: Result) -> None:
        """Print one line about a result on standard output, and remember its status for the exit code."""
        _show(result)
        self._statuses.add(result.record.status)

    def leave(self) -> None:
        """Exit with code 1 if a shown result failed, with 3 if one was partial; otherwise return."""
        if "failed" in self._statuses:
            raise typer.Exit(1)
        if "partial" in self._statuses:
            raise typer.Exit(3)


def _show(result: Result) -> None:
    record, path = result.record, result.path
    line = f"{method_text(record)} on {record.task.label}: "
    results = ranking_results(record)
    if record.status == "failed":
        line += f"failed: {shown(record.error)}"
    elif record.task.scale:
        line += _costs(record)
    elif not results or record.storage is None or record.latency is None:
        line += "; ".join([record.status, f"{record.task.main_metric} does not apply", *record.notes])
        line += _lost(record.coverage.nonfinite)
    else:
        line += ", ".join(_value(record, each) for each in results)
        line += f", storage {storage_text(record.storage)}, query p50 {human_seconds(record.latency.query.p50)}"
        if record.status != "complete":
            line += f", {record.status}"
        if record.status == "partial":
            line += "".join(f"; {note}" for note in record.notes)
        line += _lost(record.coverage.nonfinite)
    typer.echo(f"{plain(line)} -> {plain(_relative(path))}{' (already there)' if result.reused else ''}")


def _costs(record: Record) -> str:
    """Return the costs of a run as text for the terminal: storage, seconds per item and query, peak memory."""
    storage, latency, items = record.storage, record.latency, record.coverage.train_items
    assert storage is not None and latency is not None
    peaks = [("memory", record.peak_memory_bytes), ("device memory", record.peak_device_bytes)]
    return (
        f"scale run, storage {storage_text(storage)} ({human_bytes(storage.rows / items)} an item),"
        f" training items {human_seconds(latency.cache / items)} each, query p50 {human_seconds(latency.query.p50)}"
        + "".join(f", peak {name} {human_bytes(peak)}" for name, peak in peaks if peak)
    )


def _value(record: Record, result: MetricResult) -> str:
    """Return a metric as text: name, value, 95% interval, and what to compare it with."""
    interval = f" {text}" if (text := interval_text(result)) else ""
    return f"{result.name} {result.value:.3f}{interval}{_reference(record, result)}"


def _reference(record: Record, result: MetricResult) -> str:
    """Return text of what to compare a metric with: the values of the ground truth's controls, or of random ranking.

    And the ceiling of a ground truth's metric, which the noise of training keeps below 1.
    """
    if controls := [control for control in record.controls if control.result.name == result.name]:
        return f" (controls: {', '.join(f'{control.name} {control.result.value:.3f}' for control in controls)})"
    bounds = {"random": result.random, "ceiling": result.ceiling if result.criterion else None}
    known = ", ".join(f"{name} {value:.3f}" for name, value in bounds.items() if value is not None)
    return f" ({known})" if known else ""


def _lost(gradients: list[tuple[str, int, int | float]]) -> str:
    """Return a warning that names the first gradients that were NaN or infinite, by split, item and timestep."""
    if not gradients:
        return ""
    named = ", ".join(f"{split} item {item} at timestep {t:g}" for split, item, t in gradients[:3])
    more = f" and {len(gradients) - 3} more" if len(gradients) > 3 else ""
    return f"; NaN or infinite gradient of {named}{more}: counted as zero"


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
